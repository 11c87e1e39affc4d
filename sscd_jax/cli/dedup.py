"""The commands that find duplicates, move them away, and bring them back."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sscd_jax.data.names import IdRule, printable
from sscd_jax.duplicates.options import MAX_GROUP, Grouping, Options, ScoreKind
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

if TYPE_CHECKING:
    from sscd_jax.duplicates.move_plan import Left

Sources = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE")]
Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]


def dedup(
    sources: Sources,
    out: Path,
    weights: str = "sscd_disc_mixup",
    preset: PresetName | None = None,
    custom: Preset = CUSTOM,
    threshold: float | None = None,
    score: ScoreKind = "background",
    background: str | None = None,
    calibration: Path | None = None,
    keep: str = "largest",
    grouping: Grouping = "leaders",
    max_group: int = MAX_GROUP,
    batch_size: int | None = None,
    max_errors: int | None = None,
    workers: int | None = None,
    ids: IdRule = "stem",
    against: str | None = None,
) -> None:
    """Find duplicates: write pairs, groups, what to keep, and a page to look at, to the folder OUT.

    Files with the same bytes, images with the same pixels, and copies that were edited are found. Nothing is moved or
    deleted: `sscd-jax dedup apply OUT` does that when you ask for it, and `sscd-jax dedup undo OUT` brings all back.
    Rerun the same command to resume, and after images were added, changed or removed: it embeds only what is new.

    Args:
        sources: One or more sources of images: a folder (searched recursively), a text file of paths, a .tar or
            .parquet file, a pack, tfds:NAME, or sample for the bundled photographs. With more than one, ids begin with
            the name of the source.
        out: Folder for the results. It gets pairs.csv (and pairs.parquet with the extra parquet), groups.csv, keep.txt,
            remove.txt, summary.json, and duplicates.html, which shows the groups, the most doubtful ones first.
        weights: Name of published weights, which are downloaded at first use; or a training run or a file of weights.
        preset: How images are resized and normalized; see `sscd-jax embed --help`. The default is the preset that the
            network is for.
        custom: The preset that --preset custom selects.
        threshold: Least score of two copies. The default is 0.2, or 0.75 with --score similarity. Raise it if the pages
            show images that are no copies. Files with the same bytes or pixels are copies at any threshold.
        score: What the threshold applies to. background is the similarity less what is similar to both images anyway,
            measured among the images themselves; it finds more copies at the same precision. similarity is the plain
            inner product.
        background: Images of the same kinds as those of SOURCE (photographs, drawings and so on) that are no copies of
            them, or the folder of their descriptors. The score then leaves out what is similar to these, instead of
            what is similar within SOURCE. Give it if you have thousands of such images and SOURCE has few.
        calibration: The .npz file that `sscd-jax calibrate` wrote. It transforms the descriptors, and its background
            and its threshold take the place of those above.
        keep: Which image of a group is kept. largest is the one with the most pixels, then bytes; first is the first in
            the source; oldest is the file that was changed longest ago. Anything else is the beginning of an id or a
            path, such as originals/, whose images are kept rather than others.
        grouping: leaders gives groups in which each image reaches the threshold with the one that is kept. components
            joins chains of pairs, whose ends may differ.
        max_group: Largest group of --grouping components. Larger ones are split at higher thresholds.
        batch_size: Number of images in a batch; see `sscd-jax embed --help`.
        max_errors: Number of images that the disk or the network may fail to deliver, by default 100, or 1 % of the
            images if that is more. With more, the command stops with exit status 1.
        workers: Number of threads that decode images. The default is one for each core.
        ids: How images are named: stem drops the extension of the path, path keeps it.
        against: Another set of images, a source or a folder that `sscd-jax embed` wrote, none of which is removed. Give
            it to find the images of SOURCE that have a copy there, in the place of duplicates within SOURCE.
    """
    from sscd_jax.cli.options import embed_with, network_like, open_set
    from sscd_jax.data.sources import open_sources
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.duplicates.against import dedup_against
    from sscd_jax.duplicates.dedup import FOLDER
    from sscd_jax.duplicates.dedup import dedup as find
    from sscd_jax.search.calibration import Calibration

    if not sources:
        raise ValueError("name at least one SOURCE, such as a folder of images")
    if calibration and background:
        raise ValueError("--calibration has a background of its own: leave out --background")
    if score == "similarity" and (calibration or background):
        raise ValueError("--score similarity leaves out no background: leave out --background and --calibration")
    choose(preset, custom)
    fitted = Calibration.read(calibration) if calibration else None
    options = Options(threshold, score, grouping, max_group, keep)
    if against is not None and (background or calibration):
        raise ValueError("--against measures the background in both sets: leave out --background and --calibration")
    if against is not None and options != Options(threshold, score):
        raise ValueError("--keep, --grouping and --max-group have no meaning with --against, whose images are all kept")
    FOLDER.begin(out)  # a wrong place is an error before anything is loaded
    source = open_sources(sources, ids=ids)
    other = None if against is None else open_set(against, ids=ids)
    outside = None if background is None else open_set(background, ids=ids)
    read, chosen = network_like(weights, preset, custom, [one for one in (other, outside) if one is not None])
    embed = embed_with(read, chosen, batch_size=batch_size, max_errors=max_errors, workers=workers)
    roots = [name for name in (*sources, against or "") if os.path.isdir(name)]
    common: dict[str, Any] = {"weights": weights, "roots": roots, "max_errors": max_errors}
    if other is not None:
        summary = dedup_against(source, other, out, embed, options, **common)
    else:
        if outside is not None and not isinstance(outside, Descriptors):
            embed(outside, out / "background")
            outside = Descriptors.read(out / "background")
        summary = find(source, out, embed, options, outside=outside, calibration=fitted, **common)
    print(json.dumps({name: value for name, value in summary.items() if name in _SHOWN}, indent=2))
    print(f"\nLook at {printable(str(out / 'duplicates.html'))}")


def dedup_apply(folder: Folder, move_to: Path | None = None, hardlink: bool = False, yes: bool = False) -> None:
    """Move the duplicates to another folder, or replace equal files by hard links. Nothing is deleted.

    Without --yes, it only says what it would do. A file whose size or time has changed since `sscd-jax dedup` compared
    it, or whose group's kept file has changed or is gone, is reported and stays. A journal in DIR allows the same
    command to resume, and `sscd-jax dedup undo DIR` to bring all back, also after the process was killed.

    Args:
        folder: Folder that `sscd-jax dedup` wrote.
        move_to: Folder to which the duplicates are moved. They keep their paths below the deepest folder that all of
            them have in common.
        hardlink: Replace each file that equals the kept one byte for byte by a hard link to it, which frees its space
            and keeps its name. Files that only look alike stay.
        yes: Do it. By default, the command says what it would do.
    """
    from sscd_jax.duplicates.dedup import read_summary
    from sscd_jax.duplicates.move_plan import plan_moves
    from sscd_jax.duplicates.moves import apply

    if move_to is not None and str(move_to) == ".":
        raise ValueError("--move-to: name a folder for the duplicates; the current folder is none for them alone")
    if hardlink == (move_to is not None):
        raise ValueError("give either --move-to FOLDER or --hardlink")
    roots = [Path(root) for root in read_summary(folder)["roots"]]
    plan = plan_moves(folder, move_to, roots=roots)
    what = "replaced by hard links" if hardlink else f"moved to {printable(str(move_to))}"
    if not yes:
        for move in plan.moves[:_EXAMPLES]:
            print(printable(f"{move.path} -> {move.to}"))
        print(_told(plan, f"{_files(len(plan.moves))} of {plan.bytes} bytes would be {what}"))
        if plan.moves:
            print("Nothing was done. Give --yes to do it.")
        return
    done = apply(plan)
    print(_told(done, f"{_files(done.done)} of {done.bytes} bytes {_were(done.done)} {what}"))
    if done.done:
        print(f"To bring them back: sscd-jax dedup undo {shlex.quote(str(folder))}")
    _end(done)


def dedup_undo(folder: Folder) -> None:
    """Bring back what `sscd-jax dedup apply` moved, and make hard links files of their own again.

    Nothing is overwritten: a file whose place is taken is reported and stays where it is.

    Args:
        folder: Folder that `sscd-jax dedup` wrote.
    """
    from sscd_jax.duplicates.dedup import MARK
    from sscd_jax.duplicates.moves import undo

    if folder.is_dir() and not (folder / MARK).exists():
        raise ValueError(f"{folder} is not a folder that `sscd-jax dedup` has written")
    done = undo(folder)
    print(_told(done, f"{_files(done.done)} of {done.bytes} bytes {_were(done.done)} brought back"))
    _end(done)


def _told(left: "Left", first: str) -> str:
    """Returns lines about what was done, and about what stays as it is."""
    lines = [f"{first}."]
    for count, why in (
        (left.before, "had been moved before."),
        (left.same, "are the same file as the kept one already."),
        (left.different, "only look like the kept one, and stay."),
        (left.not_files, "images are no files of their own, as those in a tar file, and stay."),
    ):
        if count:
            lines.append(f"{count} {why}")
    lines += [printable(f"skipped {path}: {why}") for path, why in left.skipped[:_EXAMPLES]]
    if len(left.skipped) > _EXAMPLES:
        lines.append(f"... and {len(left.skipped) - _EXAMPLES} more are skipped")
    return "\n".join(lines)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _end(left: "Left") -> None:
    if left.skipped:
        raise ValueError(f"{_files(len(left.skipped))} {_were(len(left.skipped))} skipped, as the lines above say")


_EXAMPLES = 10
_SHOWN = (
    *("images", "unreadable", "groups", "duplicates", "duplicates_by_kind", "duplicate_bytes", "pairs", "score"),
    *("threshold", "grouping", "keep", "against", "against_images", "seconds", "out"),
)
