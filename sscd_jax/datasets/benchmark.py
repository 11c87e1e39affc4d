"""Makes an image set with the structure of DISC2021 from any images.

    training/T*.jpg, references/R*.jpg, queries/Q*.jpg
    ground_truth.csv    query_id, reference_id
    queries.csv         query_id, reference_id (empty if it copies nothing), source, edits (in the order applied),
                        number (of edits), strength
    images.csv          id, source: of training images and references
    left_out.csv        source, reason: of images that could be read but are unusable or duplicates
    errors.jsonl        path, reason: of images that could not be read; only if there are any
    made_by.json        options, seed and versions
    sheet.jpg           a contact sheet of references beside their queries

Until the set is complete, its folder is named OUT.incomplete. Two logs in it, of screened and of rendered images, allow
the same command to resume after an interruption. A line is added to them when the image is on disk.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from sscd_jax.data.contact_sheet import draw_sheet, fit_on_square
from sscd_jax.data.image_source import Source, check_unique_ids, location
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.datasets.annotations import SEPARATOR, Strength, write_csv
from sscd_jax.datasets.edits import BENCHMARK_KINDS, KINDS, WITH_OTHERS
from sscd_jax.datasets.rendering import FOLDERS, Job, Renderer
from sscd_jax.datasets.screening import ORIGINALS, SCREENED, Log, local_file, select_images
from sscd_jax.datasets.worker_pool import ordered_map
from sscd_jax.files import is_temporary, write_bytes, write_text

_MADE_BY, _RENDERED = "made_by.json", "rendered.jsonl"
_SHEET_ROWS, _SHEET_COLUMNS = 10, 5


@dataclass(frozen=True)
class Options:
    """What the set consists of; see `sscd-jax benchmark make --help`.

    The numbers `references`, `training` and `non_copies` that are None get an even share of the remaining images.
    """

    references: int | None = None
    training: int | None = None
    non_copies: int | None = None
    copies_of_each: int = 3
    edits: tuple[int, int] = (1, 3)
    strengths: tuple[Strength, ...] = ("weak", "medium", "strong")
    kinds: tuple[str, ...] = BENCHMARK_KINDS
    max_side: int = 1024
    seed: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name, value in (self.least() | {"copies_of_each": 1, "max_side": 64, "seed": 0, "max_pixels": 1}).items():
            given, option = getattr(self, name), f"--{name.replace('_', '-')}"
            if given is not None and given < value:
                why = f", as {', '.join(WITH_OTHERS)} use other images" if name == "non_copies" and value else ""
                raise ValueError(f"{option} is {given}; it must be at least {value}{why}")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"--kinds: there is no {unknown[0]!r}; choose from {', '.join(map(repr, KINDS))}")
        if unknown := [strength for strength in self.strengths if strength not in get_args(Strength)]:
            raise ValueError(f"--strengths: there is no {unknown[0]!r}; choose from {', '.join(get_args(Strength))}")
        for name in ("kinds", "strengths"):
            given = getattr(self, name)
            if not given or len({*given}) < len(given):
                raise ValueError(f"--{name}: name at least one, and each only once")
        low, high = self.edits
        if not 1 <= low <= high <= len(self.kinds):
            kinds = f"the number of kinds, {len(self.kinds)}"
            raise ValueError(f"--edits {low} {high}: pass the smallest and the largest number, from 1 to {kinds}")

    def least(self) -> dict[str, int]:
        """Returns the smallest number of images of each part."""
        return {"references": 1, "non_copies": 2 if {*self.kinds} & {*WITH_OTHERS} else 0, "training": 0}


def make(source: Source, out: Path, options: Options = Options(), *, workers: int | None = None) -> dict[str, Any]:
    """Writes an image set to a new folder, or resumes writing it. The same source and options give the same files.

    Args:
        source: the images, with unique ids.
        out: the folder, which must not exist.
        options: what the set consists of.
        workers: the number of processes; by default one for each core.

    Returns:
        The numbers of training, references, copies and non_copies, and of unreadable and left_out images.

    Raises:
        FileExistsError: `out` exists.
        ValueError: there are too few images, two have the same id, `out` is in the folder of the images, or an
            interrupted call with another source or other options has left OUT.incomplete.
    """
    if out.exists():
        raise FileExistsError(f"{out} already exists: remove it, or name another folder")
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be positive")
    check_unique_ids(source)
    folder = out.with_name(f"{out.name}.incomplete")
    if os.path.isdir(source.name) and Path(os.path.realpath(source.name)) in Path(os.path.realpath(folder)).parents:
        raise ValueError(f"{out} is in {source.name}, the folder of the images: name a folder elsewhere")
    _begin(folder, source, options)

    order = sorted(range(len(source)), key=lambda index: _hash(f"{options.seed} {source.ids[index]}"))
    given = (options.references, options.non_copies, options.training)
    needed = len(order) if None in given else sum(number or 0 for number in given)
    kept, left_out, errors = select_images(
        source, order, needed, folder, max_pixels=options.max_pixels, workers=workers
    )
    counts = _shares(len(kept), options)
    if sum(counts.values()) > len(kept) or any(counts[name] < least for name, least in options.least().items()):
        (folder / _MADE_BY).unlink()  # so that the command can be run with other options
        _tidy(folder)
        for name in (*FOLDERS.values(), "."):
            with contextlib.suppress(OSError):  # something else is in it
                folder.joinpath(name).rmdir()
        raise ValueError(_too_few(source, options, len(kept), len(left_out), len(errors)))
    first, second = counts["references"], counts["references"] + counts["non_copies"]
    references, held_back, training = kept[:first], kept[first:second], kept[second : second + counts["training"]]

    queries = _queries(references, held_back, options)
    queries_of: dict[int, list[tuple[int, Strength]]] = {index: [] for index in kept}
    for number, (index, strength) in enumerate(queries, 1):
        queries_of[index].append((number, strength))
    names = {index: f"R{number:05d}" for number, index in enumerate(references, 1)}
    names |= {index: f"T{number:05d}" for number, index in enumerate(training, 1)}
    jobs = [
        Job(local_file(source, folder, index), names.get(index, ""), tuple(queries_of[index]))
        for index in (*references, *held_back, *training)
    ]
    renderer = Renderer(
        folder,
        [local_file(source, folder, index) for index in held_back],
        options.seed,
        options.edits,
        options.kinds,
        options.max_side,
        options.max_pixels,
    )
    edits = _render_all(renderer, jobs, workers)

    rows = []
    for number, (index, strength) in enumerate(queries, 1):
        query, reference = f"Q{number:05d}", names.get(index, "")
        kinds = edits[query]
        rows.append((query, reference, source.ids[index], SEPARATOR.join(kinds), len(kinds), strength))
    header = ("query_id", "reference_id", "source", "edits", "number", "strength")
    write_csv(folder / "queries.csv", header, rows)
    write_csv(folder / "ground_truth.csv", header[:2], [row[:2] for row in rows if row[1]])
    plain = [(names[index], source.ids[index]) for index in (*training, *references)]
    write_csv(folder / "images.csv", ("id", "source"), plain)
    write_csv(folder / "left_out.csv", ("source", "reason"), left_out)
    if errors:
        text = "".join(f"{json.dumps(error, ensure_ascii=False)}\n" for error in errors)
        write_bytes(folder / "errors.jsonl", text.encode("utf-8", "backslashreplace"))
    _sheet(folder, rows, dict(plain)).save(folder / "sheet.jpg", quality=85)
    _tidy(folder)
    folder.rename(out)
    copies = sum(bool(row[1]) for row in rows)
    return {
        "training": len(training),
        "references": len(references),
        "copies": copies,
        "non_copies": len(rows) - copies,
        "unreadable": len(errors),
        "left_out": len(left_out),
    }


def _tidy(folder: Path) -> None:
    """Removes the logs, the copies of images, and what killed processes have left, but nothing of others."""
    for path in [*folder.rglob("*")]:
        is_copy = path.parent == folder / ORIGINALS and path.name.isdecimal()
        if is_copy or path in (folder / SCREENED, folder / _RENDERED) or is_temporary(path.name):
            path.unlink()
    with contextlib.suppress(OSError):  # something else is in it
        (folder / ORIGINALS).rmdir()


def _begin(folder: Path, source: Source, options: Options) -> None:
    """Creates the folder, or checks that the existing one has the same source and options."""
    listed = _hash(json.dumps([*source.ids]))
    made_by = {"source": location(source.name), "images": len(source), "listed": listed} | asdict(options)
    made_by["versions"] = {name: version(name) for name in ("sscd_jax", "numpy", "pillow")}
    made_by = json.loads(json.dumps(made_by))
    path = folder / _MADE_BY
    if not path.is_file():
        if folder.exists() and not all(is_temporary(inside.name) for inside in folder.iterdir()):
            raise ValueError(f"{folder} is in the way and was not written by this command: remove it")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(made_by, indent=2) + "\n")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in made_by if before.get(name) != made_by[name]]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}; remove {folder}") from error
    if changed:
        names = ", ".join("list of images" if name == "listed" else name.replace("_", " ") for name in changed)
        remedy = "repeat that command to resume it, or remove the folder to start again"
        raise ValueError(f"{folder} was left by an interrupted run with other {names}: {remedy}")
    for name in (*FOLDERS.values(), ORIGINALS):
        (folder / name).mkdir(exist_ok=True)


def _shares(count: int, options: Options) -> dict[str, int]:
    """Divides `count` images into references, non_copies and training."""
    numbers = {name: getattr(options, name) for name in ("references", "non_copies", "training")}
    unset = [name for name, value in numbers.items() if value is None]
    rest = count - sum(value for value in numbers.values() if value is not None)
    for position, name in enumerate(unset):
        numbers[name] = max(rest + len(unset) - 1 - position, 0) // len(unset)
    return numbers


def _queries(references: Sequence[int], held_back: Sequence[int], options: Options) -> list[tuple[int, Strength]]:
    """Returns the image and the strength of each query, in random order.

    Strengths take turns, over the queries of each reference and over all queries.
    """
    copies = [index for index in references for _ in range(options.copies_of_each)]
    strengths = options.strengths
    queries = [(index, strengths[i % len(strengths)]) for part in (copies, held_back) for i, index in enumerate(part)]
    return [queries[i] for i in np.random.default_rng(options.seed).permutation(len(queries))]


def _render_all(renderer: Renderer, jobs: Sequence[Job], workers: int) -> dict[str, list[str]]:
    """Renders the images that do not exist yet, and returns the edits of every image by its name."""
    log = Log(renderer.folder / _RENDERED)
    edits: dict[str, list[str]] = {}
    for line in log.lines:
        edits |= {name: kinds for name, kinds in line.items() if renderer.path(name).is_file()}
    todo = [
        job
        for job in jobs
        if not all(name in edits for name in (*filter(None, [job.plain]), *(f"Q{n:05d}" for n, _ in job.queries)))
    ]
    total = sum(bool(job.plain) + len(job.queries) for job in jobs)
    with (
        tqdm(total=total, initial=len(edits), desc="rendering", unit="image", dynamic_ncols=True) as bar,
        ordered_map(renderer.render, workers) as rendered,
    ):
        for new in rendered(todo):
            log.add(new)
            edits |= new
            bar.update(len(new))
    return edits


def _sheet(folder: Path, rows: Sequence[tuple[Any, ...]], sources: dict[str, str]) -> Image.Image:
    """Draws a sheet of references beside their queries. The last rows are queries that copy nothing."""
    by_reference: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        by_reference.setdefault(row[1], []).append(row)
    cells: list[list[np.ndarray]] = []
    captions: list[list[list[str]]] = []
    non_copies = by_reference.pop("", [])

    def cell(name: str, *caption: str) -> None:
        cells[-1].append(fit_on_square(Image.open(folder / FOLDERS[name[0]] / f"{name}.jpg")))
        captions[-1].append([name, *caption])

    def query(row: tuple[Any, ...], *caption: str) -> None:
        cell(row[0], f"{row[5]}: {row[3]}", *caption)

    for reference in sorted(by_reference)[:_SHEET_ROWS]:
        cells.append([])
        captions.append([])
        cell(reference, sources[reference])
        for row in by_reference[reference][: _SHEET_COLUMNS - 1]:
            query(row)
    columns = max(map(len, cells))
    for start in range(0, min(len(non_copies), 2 * columns), columns):
        cells.append([])
        captions.append([])
        for row in non_copies[start : start + columns]:
            query(row, "copies nothing")
    for images, texts in zip(cells, captions, strict=True):
        while len(images) < columns:
            images.append(fit_on_square(Image.new("RGB", (1, 1), "white")))
            texts.append([])
    return draw_sheet(cells, captions)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _too_few(source: Source, options: Options, kept: int, left_out: int, errors: int) -> str:
    given = {name: getattr(options, name) for name in ("references", "non_copies", "training")}
    asked = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None)
    least = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in options.least().items() if number)
    return (
        f"{source.name} has {len(source)} images, of which {kept} are usable: {errors} cannot be read, and {left_out} "
        f"have too little detail or are duplicates. That is too few for {asked or 'a set'}, as parts without a number "
        f"get an even share of the rest, and a set needs at least {least}: use more images, or set --references, "
        "--non-copies and --training"
    )
