"""Makes an image set shaped like DISC2021 from any images: references, edited queries, training, ground truth.

    training/T*.jpg, references/R*.jpg, queries/Q*.jpg
    ground_truth.csv   query_id, reference_id
    queries.csv        query_id, reference_id (empty: copies nothing), source, edits in order, number, strength
    images.csv       id, source: of training and references
    left_out.csv       source, reason: images that could be read and were not taken
    errors.jsonl       path and reason of those that could not be read; only where there are any
    made_by.json       options, seed, versions
    sheet.jpg          references beside queries, to look at

Until all is there the folder is called OUT.unfinished. In it two logs say what is done, so that the same command goes
on after an interruption: what was looked at, and what was made, each a line after the image is on disk.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from tqdm import tqdm

from sscd_jax.data.contact_sheet import draw_sheet, fitted
from sscd_jax.data.image_source import Source, check_unique_ids, location
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.datasets.annotations import Strength, write_csv
from sscd_jax.datasets.edits import BENCHMARK_KINDS, KINDS, WITH_OTHERS
from sscd_jax.datasets.rendering import FOLDERS, Job, Maker
from sscd_jax.datasets.screening import LOOKED_AT, ORIGINALS, Log, choose, local_file
from sscd_jax.datasets.worker_pool import processes
from sscd_jax.files import write_text

_MADE_BY, _MADE = "made_by.json", "made.jsonl"
_SHEET_ROWS, _SHEET_COLUMNS = 10, 5


@dataclass(frozen=True)
class Options:
    """What is made; see `sscd-jax benchmark make --help`. Of images, None: an even share of what there is."""

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
                why = f", as {', '.join(WITH_OTHERS)} take other images" if name == "non_copies" and value else ""
                raise ValueError(f"{option} is {given}; it must be at least {value}{why}")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"--kinds: there is no {unknown[0]!r}; choose from {', '.join(map(repr, KINDS))}")
        if unknown := [one for one in self.strengths if one not in get_args(Strength)]:
            raise ValueError(f"--strengths: there is no {unknown[0]!r}; choose from {', '.join(get_args(Strength))}")
        for name in ("kinds", "strengths"):
            given = getattr(self, name)
            if not given or len({*given}) < len(given):
                raise ValueError(f"--{name}: give at least one, and each once")
        low, high = self.edits
        if not 1 <= low <= high <= len(self.kinds):
            most = f"the number of kinds, {len(self.kinds)}"
            raise ValueError(f"--edits {low} {high}: give the least and the most, from 1 to {most}")

    def least(self) -> dict[str, int]:
        """The smallest numbers of images that make a set."""
        return {"references": 1, "non_copies": 2 if {*self.kinds} & {*WITH_OTHERS} else 0, "training": 0}


def make(source: Source, out: Path, options: Options = Options(), *, workers: int | None = None) -> dict[str, Any]:
    """Writes the image set to the new folder `out`; the same source and options give the same files.

    Args:
        source: the images; ids are unique.
        out: the folder. What an interrupted call with the same source and options left is not made again.
        options: what is made.
        workers: processes; by default one for each core.

    Returns:
        The numbers of training, references, copies and non_copies, and of unreadable and left_out images.

    Raises:
        FileExistsError: `out` is there already.
        ValueError: there are too few images, two have one id, `out` lies among them, or another source or other
            options were at work in what is left of an interrupted call.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or name another folder")
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be positive")
    check_unique_ids(source)
    folder = out.with_name(f"{out.name}.unfinished")
    if os.path.isdir(source.name) and Path(os.path.realpath(source.name)) in Path(os.path.realpath(folder)).parents:
        raise ValueError(f"{out} lies in {source.name}, whose images are taken: name a folder elsewhere")
    _begin(folder, source, options)

    order = sorted(range(len(source)), key=lambda index: _hash(f"{options.seed} {source.ids[index]}"))
    given = (options.references, options.non_copies, options.training)
    needed = len(order) if None in given else sum(number or 0 for number in given)
    looking: dict[str, int] = {"max_pixels": options.max_pixels, "workers": workers}
    kept, left_out, errors = choose(source, order, needed, folder, **looking)
    counts = _shares(len(kept), options)
    if sum(counts.values()) > len(kept) or any(counts[name] < least for name, least in options.least().items()):
        shutil.rmtree(folder)  # so that other options can be given
        raise ValueError(_too_few(source, options, len(kept), len(left_out), len(errors)))
    first, second = counts["references"], counts["references"] + counts["non_copies"]
    references, held_back, training = kept[:first], kept[first:second], kept[second : second + counts["training"]]

    queries = _queries(references, held_back, options)
    of: dict[int, list[tuple[int, Strength]]] = {index: [] for index in kept}
    for number, (index, strength) in enumerate(queries, 1):
        of[index].append((number, strength))
    names = {index: f"R{number:05d}" for number, index in enumerate(references, 1)}
    names |= {index: f"T{number:05d}" for number, index in enumerate(training, 1)}
    jobs = [
        Job(local_file(source, folder, index), names.get(index, ""), tuple(of[index]))
        for index in (*references, *held_back, *training)
    ]
    maker = Maker(
        folder,
        [local_file(source, folder, index) for index in held_back],
        options.seed,
        options.edits,
        options.kinds,
        options.max_side,
        options.max_pixels,
    )
    edits = _make_all(maker, jobs, workers)

    rows = []
    for number, (index, strength) in enumerate(queries, 1):
        done = edits[f"Q{number:05d}"]
        name, joined = names.get(index, ""), " + ".join(done)
        rows.append((f"Q{number:05d}", name, source.ids[index], joined, len(done), strength))
    header = ("query_id", "reference_id", "source", "edits", "number", "strength")
    write_csv(folder / "queries.csv", header, rows)
    write_csv(folder / "ground_truth.csv", header[:2], [row[:2] for row in rows if row[1]])
    plain = [(names[index], source.ids[index]) for index in (*training, *references)]
    write_csv(folder / "images.csv", ("id", "source"), plain)
    write_csv(folder / "left_out.csv", ("source", "reason"), left_out)
    if errors:
        lines = [json.dumps(error, ensure_ascii=False) for error in errors]
        text = "".join(f"{line}\n" for line in lines)
        (folder / "errors.jsonl").write_text(text, encoding="utf-8", errors="backslashreplace")
    _sheet(folder, rows, dict(plain)).save(folder / "sheet.jpg", quality=85)
    shutil.rmtree(folder / ORIGINALS, ignore_errors=True)
    for log in (LOOKED_AT, _MADE):
        (folder / log).unlink()
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


def _begin(folder: Path, source: Source, options: Options) -> None:
    """Begins the folder, or checks that what is left there is of the same source and options."""
    listed = _hash(json.dumps([*source.ids]))
    made_by = {"source": location(source.name), "images": len(source), "listed": listed} | asdict(options)
    made_by["versions"] = {name: version(name) for name in ("sscd_jax", "numpy", "pillow")}
    made_by = json.loads(json.dumps(made_by))
    path = folder / _MADE_BY
    if not path.is_file():
        if folder.exists() and any(f.name != f"{_MADE_BY}.unfinished" for f in folder.iterdir()):
            raise ValueError(f"{folder} is in the way, and was not begun by this command: remove it")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(made_by, indent=2) + "\n")
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in made_by if there.get(name) != made_by[name]]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}; remove {folder}") from error
    if other:
        names = ", ".join("list of images" if name == "listed" else name.replace("_", " ") for name in other)
        note = "give what was given then, or remove it to begin anew"
        raise ValueError(f"{folder} was left by an interrupted run with other {names}: {note}")
    for name in (*FOLDERS.values(), ORIGINALS):
        (folder / name).mkdir(exist_ok=True)


def _shares(there: int, options: Options) -> dict[str, int]:
    """How many references, images that are held back, and for training."""
    given = {name: getattr(options, name) for name in ("references", "non_copies", "training")}
    open_ones = [name for name, value in given.items() if value is None]
    rest = there - sum(value for value in given.values() if value is not None)
    for number, name in enumerate(open_ones):
        given[name] = max(rest + len(open_ones) - 1 - number, 0) // len(open_ones)
    return given


def _queries(references: Sequence[int], held_back: Sequence[int], options: Options) -> list[tuple[int, Strength]]:
    """The image and the strength of each query, in mixed order; of each image and in all, strengths in turn."""
    copies = [index for index in references for _ in range(options.copies_of_each)]
    strengths = options.strengths
    queries = [(index, strengths[i % len(strengths)]) for some in (copies, held_back) for i, index in enumerate(some)]
    return [queries[i] for i in np.random.default_rng(options.seed).permutation(len(queries))]


def _make_all(maker: Maker, jobs: Sequence[Job], workers: int) -> dict[str, list[str]]:
    """Makes what is not there yet, and returns the edits of each image by its name."""
    log = Log(maker.folder / _MADE)
    edits: dict[str, list[str]] = {}
    for line in log.lines:
        edits |= {name: done for name, done in line.items() if maker.path(name).is_file()}
    todo = [
        job
        for job in jobs
        if not all(name in edits for name in (*filter(None, [job.plain]), *(f"Q{n:05d}" for n, _ in job.queries)))
    ]
    total = sum(bool(job.plain) + len(job.queries) for job in jobs)
    with (
        tqdm(total=total, initial=len(edits), desc="making", unit="image", dynamic_ncols=True) as bar,
        processes(maker.make, workers) as mapped,
    ):
        for made in mapped(todo):
            log.add(made)
            edits |= made
            bar.update(len(made))
    return edits


def _sheet(folder: Path, rows: Sequence[tuple[Any, ...]], sources: dict[str, str]) -> Image.Image:
    """References beside their queries; in the last rows, queries that copy nothing."""
    by_reference: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        by_reference.setdefault(row[1], []).append(row)
    cells: list[list[np.ndarray]] = []
    captions: list[list[list[str]]] = []
    others = by_reference.pop("", [])

    def cell(name: str, *caption: str) -> None:
        cells[-1].append(fitted(Image.open(folder / FOLDERS[name[0]] / f"{name}.jpg")))
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
    for start in range(0, min(len(others), 2 * columns), columns):
        cells.append([])
        captions.append([])
        for row in others[start : start + columns]:
            query(row, "copies nothing")
    for images, texts in zip(cells, captions, strict=True):
        while len(images) < columns:
            images.append(fitted(Image.new("RGB", (1, 1), "white")))
            texts.append([])
    return draw_sheet(cells, captions)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _too_few(source: Source, options: Options, kept: int, left_out: int, errors: int) -> str:
    given = {name: getattr(options, name) for name in ("references", "non_copies", "training")}
    asked = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None)
    least = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in options.least().items() if number)
    return (
        f"{source.name} has {len(source)} images, of which {kept} can be taken: {errors} cannot be read, {left_out} "
        f"show too little or are there twice. That is too few for {asked or 'a set'}, as what is not given gets an "
        f"even share of the rest (the least is {least}): give more images, or say how many by --references, "
        "--non-copies and --training"
    )
