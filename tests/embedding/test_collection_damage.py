"""What a collection must survive or notice: mutated files, damaged descriptors, a full disk; and trying again."""

import contextlib
import io
import json
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from helpers.mutations import MUTABLE, mutated
from helpers.small_collection import MODEL, PRESET, write

from sscd_jax.data.images import apply_preset, open_image
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.models import normalize


def test_retry(folder, variables, tmp_path, capsys):
    write(variables, folder, tmp_path / "out")
    shutil.copy(folder / "b" / "000.jpg", folder / "b" / "013.jpg")
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["embedded"], summary["total_unreadable"]) == (0, 2)
    assert (
        f"2 images could not be read; see {tmp_path / 'out' / 'errors.jsonl'}; --retry tries again"
        in capsys.readouterr().err
    )
    summary = write(variables, folder, tmp_path / "out", retry=True)
    assert (summary["embedded"], summary["total_embedded"], summary["total_unreadable"]) == (1, 39, 1)
    write(variables, folder, tmp_path / "undisturbed")
    one, other = Descriptors.read(tmp_path / "out"), Descriptors.read(tmp_path / "undisturbed")
    assert one.ids == other.ids
    np.testing.assert_allclose(one.vectors, other.vectors, atol=2e-6)  # in other batches


def test_damaged_descriptors_are_noticed(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    (vectors,) = (tmp_path / "out").glob("vectors-00001-*")
    intact = vectors.read_bytes()
    for damage in (intact[:-1], b"", None):
        vectors.unlink() if damage is None else vectors.write_bytes(damage)
        with pytest.raises(ValueError, match=r"vectors-00001-\w+\.npy is damaged: .*; remove shard-00001\.json"):
            write(variables, folder, tmp_path / "out")
    (tmp_path / "out" / "shard-00001.json").unlink()
    write(variables, folder, tmp_path / "out")
    assert vectors.read_bytes() == intact
    plan = tmp_path / "out" / "plan" / "00001.txt"
    planned = plan.read_text()
    for text in ("b/012\n", planned[:-3], "\xff", ""):
        plan.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"00001\.txt is damaged or missing"):
            write(variables, folder, tmp_path / "out")
    plan.write_text(planned)
    for text in ("", "[]", "{}"):  # neither it nor the manifest may be taken for those of others
        (tmp_path / "out" / "manifest.json").unlink(missing_ok=True)
        (tmp_path / "out" / "plan" / "made_by.json").write_text(text)
        with pytest.raises(ValueError, match=r"is not a folder of sscd_jax descriptors"):
            write(variables, folder, tmp_path / "out")


def test_a_full_disk_says_which_file(folder, variables, tmp_path, monkeypatch):
    full = contextlib.nullcontext(epath.Path("/dev/full"))
    monkeypatch.setattr("sscd_jax.data.storage.atomic_file", lambda _: full)
    with pytest.raises(
        OSError, match=r"out/plan/made_by\.json cannot be written: No space left on device; rerun the c"
    ):
        write(variables, folder, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_mutated_files(folder, variables, tmp_path):
    """Of every format, one by one and in archives, some of which are damaged themselves: all are accounted for."""
    rng = np.random.default_rng(0)
    shutil.rmtree(folder / "b")
    for name, data in MUTABLE.items():
        for number in range(40):
            (folder / f"{name}-{number}.png").write_bytes(mutated(data, rng))
    for number in range(12):
        shard = folder / f"{number}"
        rows = [mutated(data, rng) for data in MUTABLE.values()]
        pq.write_table(pa.table({"image": rows}), shard.with_suffix(".parquet"), row_group_size=3)
        with tarfile.open(folder / f"t{number}.tar", "w") as archive:
            for row, data in enumerate(rows):
                info = tarfile.TarInfo(f"{row}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        for path in (shard.with_suffix(".parquet"), folder / f"t{number}.tar"):
            if number >= 4:
                path.write_bytes(mutated(path.read_bytes(), rng))
    source = open_source(str(folder))
    assert len(source) >= 40 * len(MUTABLE) + 8 * len(MUTABLE), "archives that are intact give all that is in them"
    summary = write(variables, folder, tmp_path / "out", shard_size=100)
    read = Descriptors.read(tmp_path / "out")
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    lost = {one: path for one, path in zip(source.ids, source.paths, strict=True) if one not in set(read.ids)}
    assert len(read.ids) > 50
    assert [error["path"] for error in errors] == list(lost.values())
    assert all(error["reason"] for error in errors)
    assert summary["unreadable"] == len(errors) > 50
    index = {one: i for i, one in enumerate(source.ids)}
    for one, vector in list(zip(read.ids, read.vectors, strict=True))[::7]:
        image = apply_preset(open_image(source.load(index[one])), PRESET)
        alone = MODEL.apply(variables, normalize(np.asarray(image)[None], PRESET.mean, PRESET.std))
        np.testing.assert_allclose(vector, alone[0], atol=1e-5)
