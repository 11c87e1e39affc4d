"""The command that makes a page from evaluations."""

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
    name: tuple[str, ...] = (),
    out: Path | None = None,
    title: str = "How well copies are found",
) -> None:
    """Make one self-contained page from evaluations, with tables, curves, metrics by edit, and answers in images.

    Args:
        evaluations: JSON files that `sscd-jax evaluate` wrote for the same queries, of one network or of several. The
            folder of the same name must be beside each.
        queries: The images of the queries, given as for `sscd-jax embed`. The default is where they were when they
            were embedded.
        references: The images of the references, given in the same way.
        name: A name for the network of each evaluation, in their order. The default is the name of the file, if there
            are several evaluations.
        out: The HTML file to write. The default is the path of the first evaluation with the extension .html.
        title: The title of the page.
    """
    from sscd_jax.evaluation.report.page import results_of, write_report
    from sscd_jax.evaluation.results import read

    if not evaluations:
        raise ValueError("give a JSON file that `sscd-jax evaluate` wrote")
    if name and (len(name) != len(evaluations) or len(set(name)) < len(name)):
        raise ValueError(f"--name {' '.join(name)}: give {len(evaluations)} different names, one for each evaluation")
    read_ones = [read(path) for path in evaluations]
    first = read_ones[0]
    for path, one in zip(evaluations, read_ones, strict=True):
        if set(one.ground_truth) != set(first.ground_truth):
            raise ValueError(f"{path} and {evaluations[0]} have different ground truths: make a page of each")
    prefixes = [f"{one}: " for one in name] or _prefixes(evaluations)
    results = [r for one, prefix in zip(read_ones, prefixes, strict=True) for r in results_of(one, prefix=prefix)]
    rows = [row for one in read_ones for row in one.rows]
    # Rows of the rule "global" are not shown in images, because some queries have no candidate there.
    rank = [(row.get("candidates") != "global", row.get("uAP", row.get("overall_uAP"))) for row in rows]
    shown = rank.index(max(rank))
    earlier = [pair for one in read_ones for pair in one.sources]
    loaders = {
        part: _loaders(given, [source for kind, source in earlier if kind == part])
        for part, given in (("queries", queries), ("references", references))
    }
    for part, ids in (("queries", first.query_ids), ("references", first.reference_ids)):
        if not any(one in loaders[part] for one in ids):
            print(f"no images of the {part} are found: give them by --{part}", file=sys.stderr)
    copies = len({query for query, _ in first.ground_truth})
    out = checked(out or evaluations[0].with_suffix(".html"), extension=".html")
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
    """Returns prefixes that tell the evaluations apart: the names of the files, with those of the folders if needed."""
    if len(paths) == 1:
        return [""]
    names = [path.with_suffix("").name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{name}" for path, name in zip(paths, names, strict=True)]
    return [f"{name}: " for name in names]


def _loaders(given: Sequence[str], earlier: Sequence[str]) -> dict[str, "partial[bytes]"]:
    """Returns readers of images by id, and by the last part of the id, which the ground truth of DISC2021 has."""
    from sscd_jax.data.sources import open_source

    loaders: dict[str, partial[bytes]] = {}
    for place in given or dict.fromkeys(earlier):
        try:
            source = open_source(place)
        except ValueError:
            if given:
                raise
            continue  # the folder may be elsewhere now
        for index, one in enumerate(source.ids):
            loaders[one] = partial(source.load, index)
            loaders.setdefault(one.rpartition("/")[2], loaders[one])
    return loaders
