"""The command that makes a page of evaluations."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tyro

from sscd_jax.cli.output import checked


def report(
    evaluations: tyro.conf.Positional[tuple[Path, ...]],
    queries: tuple[str, ...] = (),
    references: tuple[str, ...] = (),
    out: Path | None = None,
    title: str = "How well copies are found",
) -> None:
    """Make one self-contained page of evaluations: tables, curves, edits, and answers in images.

    Args:
        evaluations: JSON files that `sscd-jax evaluate` wrote, of the same queries, the folders of the same name beside
            them; of one or of several networks.
        queries: Where the images of the queries are, as IMAGES of `sscd-jax embed`; by default where they were when
            they were embedded.
        references: The same of the references.
        out: HTML file to write; by default that of the first evaluation with the ending .html.
        title: Of the page.
    """
    from sscd_jax.evaluation.report.page import results_of, write_report
    from sscd_jax.evaluation.results import read

    if not evaluations:
        raise ValueError("name a JSON file that `sscd-jax evaluate` wrote")
    read_ones = [read(path) for path in evaluations]
    first = read_ones[0]
    for path, one in zip(evaluations, read_ones, strict=True):
        if set(one.ground_truth) != set(first.ground_truth):
            raise ValueError(f"{path} and {evaluations[0]} have different ground truths: make a page of each")
    names = _prefixes(evaluations)
    results = [r for one, name in zip(read_ones, names, strict=True) for r in results_of(one, prefix=name)]
    rows = [row for one in read_ones for row in one.rows]
    # Of the best of all queries some have no candidate, so their answers cannot be shown.
    rank = [(row.get("candidates") != "global", row.get("uAP", row.get("overall_uAP"))) for row in rows]
    shown = rank.index(max(rank))
    earlier = [pair for one in read_ones for pair in one.sources]
    loaders = {
        part: _loaders(given, [source for name, source in earlier if name == part])
        for part, given in (("queries", queries), ("references", references))
    }
    for part, ids in (("queries", first.query_ids), ("references", first.reference_ids)):
        if not any(name in loaders[part] for name in ids):
            print(f"no images of the {part}: say by --{part} where they are", file=sys.stderr)
    copies = len({query for query, _ in first.ground_truth})
    out = checked(out or evaluations[0].with_suffix(".html"), ending=".html")
    write_report(
        out,
        title=title,
        summary=(
            f"{len(first.query_ids)} queries were searched for; {copies} of them copy a reference, "
            f"{len(first.query_ids) - copies} copy nothing."
        ),
        results=results,
        ground_truth=first.ground_truth,
        query_images=loaders["queries"],
        reference_images=loaders["references"],
        query_ids=first.query_ids,
        shown=shown,
        edits=first.edits,
        facts={**first.facts, "Command": "sscd-jax report " + " ".join(map(str, evaluations))},
    )
    print(f"Look at {out}")


def _prefixes(paths: Sequence[Path]) -> list[str]:
    """What tells the evaluations apart: their names, or those of their folders; nothing where there is one."""
    if len(paths) == 1:
        return [""]
    names = [path.with_suffix("").name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, names, strict=True)]
    return [f"{name}: " for name in names]


def _loaders(given: Sequence[str], earlier: Sequence[str]) -> dict[str, "partial[bytes]"]:
    """Readers of images by id, and by the last part of the id, as the ground truth of DISC2021 has it."""
    from sscd_jax.data.sources import open_source

    loaders: dict[str, partial[bytes]] = {}
    for name in given or dict.fromkeys(earlier):
        try:
            source = open_source(name)
        except ValueError:
            if given:
                raise
            continue  # the folder may be elsewhere now
        for index, one in enumerate(source.ids):
            loaders[one] = partial(source.load, index)
            loaders.setdefault(one.rpartition("/")[2], loaders[one])
    return loaders
