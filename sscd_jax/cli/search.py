"""The commands that compare two sets of images: search, and overlap."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sscd_jax.data.names import IdRule, printable
from sscd_jax.duplicates.options import Options, ScoreKind
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

if TYPE_CHECKING:
    from sscd_jax.duplicates.matching import Matches
    from sscd_jax.duplicates.sides import Described

Queries = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="QUERIES")]
Collection = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="COLLECTION")]
Train = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRAIN")]
Test = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEST")]
_LINES = 50  # of the table


def search(
    queries: Queries,
    collection: Collection,
    out: Path | None = None,
    k: int = 10,
    threshold: float | None = None,
    score: ScoreKind = "background",
    weights: str = "sscd_disc_mixup",
    preset: PresetName | None = None,
    custom: Preset = CUSTOM,
    batch_size: int | None = None,
    max_errors: int | None = None,
    workers: int | None = None,
    ids: IdRule = "stem",
) -> None:
    """Find the copies of images in a collection: print the best matches of each query, and say which are copies.

    With --out, all matches are also written to the folder OUT, with pages that show each query beside its matches.
    Rerun the same command to resume, and to search again after images were added: it embeds only what is new.

    Args:
        queries: The images whose copies are looked for: an image, a folder (searched recursively), a text file of
            paths, a .tar or .parquet file, a pack, tfds:NAME, - for a list of paths on standard input, or sample for
            the bundled photographs. A folder that `sscd-jax embed` wrote is not embedded again.
        collection: The images among which they are looked for, given as QUERIES are. For many searches, embed it once
            and give the folder of descriptors; OUT/collection of an earlier search is one.
        out: Folder for the results. It gets matches.csv, matches.jsonl (and matches.parquet with the extra parquet),
            summary.json, and matches.html. Without it, the table on the terminal is all there is.
        k: Number of matches of each query, at most. Raise it if a query may have more copies.
        threshold: Least score of a match. Give it to get all matches at or above it, in the place of the K best of each
            query. Without it, scores from 0.2, or 0.75 with --score similarity, are marked as copies.
        score: What the threshold applies to. background is the similarity less what is similar to both images anyway,
            measured in COLLECTION; it finds more copies at the same precision. similarity is the plain inner product,
            and is faster in a large collection.
        weights: Name of published weights, which are downloaded at first use; or a training run or a file of weights.
            Where one of both is descriptors, they must be those that made them. They are not read where both are.
        preset: How images are resized and normalized; see `sscd-jax embed --help`. The default is the preset that the
            descriptors are of or, if there are none, the one that the network is for.
        custom: The preset that --preset custom selects.
        batch_size: Number of images in a batch; see `sscd-jax embed --help`.
        max_errors: Number of images that the disk or the network may fail to deliver, by default 100, or 1 % of the
            images if that is more. With more, the command stops with exit status 1. It applies with --out.
        workers: Number of threads that decode images, with --out. The default is one for each core.
        ids: How images are named: stem drops the extension of the path, path keeps it.
    """
    from sscd_jax.cli.options import open_set
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.duplicates import search as job
    from sscd_jax.duplicates.matching import match

    choose(preset, custom)
    options = Options(threshold, score)
    if k < 1:
        raise ValueError(f"--k is {k}; it must be positive")
    if out is not None:
        job.FOLDER.begin(out)  # a wrong place is an error before anything is loaded
    sets = [open_set(name, ids=ids) for name in (queries, collection)]
    if out is not None:
        reading = {"batch_size": batch_size, "max_errors": max_errors, "workers": workers, "update": True}
        embed = _embed(weights, preset, custom, sets, **reading)
        found, _ = job.search(sets[0], sets[1], out, embed, options, weights=weights, k=k)
    else:
        made = [one for one in sets if isinstance(one, Descriptors)]
        mine, others = _in_memory(sets, weights, preset, custom, batch_size) if len(made) < 2 else _both(made)
        found = match(mine, others, options, k=k)
    _show(found, out)


def overlap(
    train: Train,
    test: Test,
    out: Path,
    threshold: float | None = None,
    score: ScoreKind = "background",
    weights: str = "sscd_disc_mixup",
    preset: PresetName | None = None,
    custom: Preset = CUSTOM,
    batch_size: int | None = None,
    max_errors: int | None = None,
    workers: int | None = None,
    ids: IdRule = "stem",
) -> None:
    """Find the images that two sets have in common, such as test images that have leaked into training images.

    Files with the same bytes, images with the same pixels, and copies that were edited are found. Rerun the same
    command to resume, and after images were added, changed or removed: it embeds only what is new.

    Args:
        train: One set of images: a folder (searched recursively), a text file of paths, a .tar or .parquet file, a
            pack, tfds:NAME, or sample for the bundled photographs; or a folder that `sscd-jax embed` wrote, of which
            only near copies are sure to be found.
        test: The other set, given as TRAIN is.
        out: Folder for the results. It gets pairs.csv (and pairs.parquet with the extra parquet), test_in_train.txt and
            train_in_test.txt, which list what to drop from either set, summary.json, and overlap.html, which shows the
            pairs, the most doubtful ones first.
        threshold: Least score of two copies. The default is 0.2, or 0.75 with --score similarity. Raise it if the pages
            show images that are no copies.
        score: What the threshold applies to. background is the similarity less what is similar to both images anyway,
            measured among the images of both sets; it finds more copies at the same precision. similarity is the plain
            inner product.
        weights: Name of published weights, which are downloaded at first use; or a training run or a file of weights.
            Where one of both sets is descriptors, they must be those that made them.
        preset: How images are resized and normalized; see `sscd-jax embed --help`. The default is the preset that the
            descriptors are of or, if there are none, the one that the network is for.
        custom: The preset that --preset custom selects.
        batch_size: Number of images in a batch; see `sscd-jax embed --help`.
        max_errors: Number of images that the disk or the network may fail to deliver, by default 100, or 1 % of the
            images if that is more. With more, the command stops with exit status 1.
        workers: Number of threads that decode images. The default is one for each core.
        ids: How images are named: stem drops the extension of the path, path keeps it.
    """
    from sscd_jax.cli.options import open_set
    from sscd_jax.duplicates import overlap as job

    choose(preset, custom)
    options = Options(threshold, score)
    job.FOLDER.begin(out)  # a wrong place is an error before anything is loaded
    sets = [open_set(name, ids=ids) for name in (train, test)]
    embed = _embed(weights, preset, custom, sets, batch_size=batch_size, max_errors=max_errors, workers=workers)
    summary = job.overlap(sets[0], sets[1], out, embed, options, weights=weights, max_errors=max_errors)
    print(_told(summary))
    print(f"\nLook at {printable(str(out / 'overlap.html'))}")


def _embed(weights: str, preset: PresetName | None, custom: Preset, sets: list[Any], **options: Any) -> Any:
    """Returns a function that embeds a source into a folder; None if there is nothing to embed."""
    from sscd_jax.cli.options import embed_with, network_like
    from sscd_jax.descriptors import Descriptors

    if all(isinstance(one, Descriptors) for one in sets):
        return None
    read, chosen = network_like(weights, preset, custom, sets)
    return embed_with(read, chosen, **options)


def _both(made: list[Any]) -> "list[Described]":
    from sscd_jax.duplicates.sides import described

    return [described(one) for one in made]


def _in_memory(
    sets: list[Any], weights: str, preset: PresetName | None, custom: Preset, batch_size: int | None
) -> "list[Described]":
    """Embeds those of two sets that are images."""
    from sscd_jax.api import Model
    from sscd_jax.cli.options import network_like
    from sscd_jax.data.image_source import check_unique_ids
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.duplicates.sides import Described, described
    from sscd_jax.embedding.collection import made_by

    read, chosen = network_like(weights, preset, custom, sets)
    model = Model(read.model, read.variables, made_by(read.model, read.variables, chosen, weights), chosen)
    found = []
    for one in sets:
        if isinstance(one, Descriptors):
            found.append(described(one))
            continue
        check_unique_ids(one)
        embedded = model.embed_source(one, batch_size=batch_size, on_error="skip", progress=sys.stderr.isatty())
        if not len(embedded.ids):
            raise ValueError(f"no image of {printable(one.name)} could be read")
        found.append(Described(embedded, one))
    return found


def _show(found: "Matches", out: Path | None) -> None:
    """Prints the matches as a table, and what it does not show."""
    from sscd_jax.cli.output import table
    from sscd_jax.duplicates.search import counts

    number = counts(found)
    lines = [
        {
            "query": printable(found.query[i]),
            "rank": str(found.rank[i]),
            "match": printable(found.reference[i]),
            "similarity": f"{found.similarity[i]:.3f}",
            "score": f"{found.score[i]:.3f}",
            "": "copy" if found.is_copy[i] else "",
        }
        for i in range(min(len(found), _LINES))
    ]
    print(table(lines) if lines else "There are no matches.")
    if more := len(found) - len(lines):
        where = "give --out DIR to get all" if out is None else f"{printable(str(out / 'matches.csv'))} has all"
        print(f"... and {more} more; {where}")
    print(
        f"\n{number['queries_with_copies']} of {_some(number['queries'], 'query', 'queries')} "
        f"{'has' if number['queries_with_copies'] == 1 else 'have'} "
        f"{_some(number['copies'], 'copy', 'copies')} among {_some(number['collection'], 'image', 'images')}."
    )
    if out is not None:
        print(f"Look at {printable(str(out / 'matches.html'))}")


def _told(summary: dict[str, Any]) -> str:
    """Returns lines about what two sets have in common."""
    lines = []
    for name, other in (("test", "train"), ("train", "test")):
        counts, source = summary[name], printable(summary["sources"][other])
        compared = counts["images"] - counts["unreadable"]
        line = f"{counts['have_copies']} of {_some(compared, 'image', 'images')} of {name.upper()}"
        if counts["share"] is not None:
            low, high = (100 * value for value in counts["share_interval"])
            line += f" ({100 * counts['share']:.2f} %, 95 % confidence interval {low:.2f} to {high:.2f} %)"
        line += f" {'has' if counts['have_copies'] == 1 else 'have'} a copy in {other.upper()}, {source}"
        kinds = (("with the same bytes", "bytes"), ("with the same pixels", "pixels"), ("edited", "near"))
        parts = [f"{counts['by_kind'][kind]} {words}" for words, kind in kinds if counts["by_kind"][kind]]
        lines.append(f"{line}{': ' if parts else ''}{', '.join(parts)}.")
        if counts["unreadable"]:
            lines.append(f"{_some(counts['unreadable'], 'image', 'images')} of {name.upper()} could not be read.")
    if summary["pairs"]:
        listed = shlex.quote(printable(f"{summary['out']}/test_in_train.txt"))
        lines.append(f"{listed} lists what to drop from TEST, and train_in_test.txt beside it what to drop from TRAIN.")
    return "\n".join(lines)


def _some(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
