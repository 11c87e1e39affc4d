"""Exported descriptors, read by the tools that they are for."""

import sys

import faiss
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from sscd_jax.cli.main import main
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.export import export_descriptors
from sscd_jax.embedding.saved_rows import IMAGE
from sscd_jax.embedding.shards import Shards
from sscd_jax.provenance import Provenance
from sscd_jax.string_list import Lookup

IDS = [f"b/{i:03d}" for i in range(25)]
VECTORS = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)


@pytest.fixture(params=["float32", "float16"])
def folder(request, tmp_path):
    """Three shards, of which one is empty."""
    shards = Shards(tmp_path / "d", Provenance("f" * 64, "small_288"), request.param, "/photos")
    shards.plan.add(Lookup([*IDS[:10], *"wxyz", *IDS[10:]]), 10)
    shards.write(0, IDS[:10], VECTORS[:10], np.zeros(10, IMAGE), [])
    shards.write(1, [], VECTORS[:0], np.zeros(0, IMAGE), [])
    shards.write(2, IDS[10:], VECTORS[10:], np.zeros(15, IMAGE), [])
    shards.finish(4)
    return tmp_path / "d"


def stored(folder) -> np.ndarray:
    return VECTORS.astype(np.load(next(folder.glob("vectors-00000-*"))).dtype)


def test_numpy(folder, tmp_path):
    export_descriptors(folder, tmp_path / "all.npy")
    vectors = np.load(tmp_path / "all.npy", mmap_mode="r")
    np.testing.assert_array_equal(vectors, stored(folder), strict=True)
    assert (tmp_path / "all.npy.ids.txt").read_text().splitlines() == IDS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.npy", "all.npy.ids.txt", "all.npy.json", "d"]


def test_faiss(folder, tmp_path):
    export_descriptors(folder, tmp_path / "all.faiss")
    index = faiss.read_index(str(tmp_path / "all.faiss"))
    assert (index.ntotal, index.metric_type) == (25, faiss.METRIC_INNER_PRODUCT)
    scores, labels = index.search(VECTORS[7:8], 3)
    products = stored(folder).astype(np.float32) @ VECTORS[7]
    np.testing.assert_array_equal(labels[0], np.argsort(-products)[:3])
    np.testing.assert_allclose(scores[0], np.sort(products)[::-1][:3], rtol=1e-5)


def test_arrow_and_pandas(folder, tmp_path):
    export_descriptors(folder, tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.column_names == ["id", "vector"]
    assert table["id"].to_pylist() == IDS
    flat = table["vector"].combine_chunks().values.to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(25, 4), stored(folder), strict=True)
    pd = pytest.importorskip("pandas")
    frame = pd.read_parquet(tmp_path / "all.parquet").set_index("id")
    np.testing.assert_array_equal(np.stack(frame["vector"]), stored(folder))


def test_isc2021(folder, tmp_path):
    export_descriptors(folder, tmp_path / "queries.hdf5")
    with h5py.File(tmp_path / "queries.hdf5") as file:  # as isc2021's scripts/convert_track2_format.py reads it
        assert np.array(file["image_names"][:], dtype=object).astype(str).tolist() == IDS
        assert file["vectors"].dtype == np.float32
        np.testing.assert_array_equal(np.array(file["vectors"]), stored(folder))
    Descriptors(["R1", "R2"], VECTORS[:2], Provenance("f" * 64, "small_288")).write(tmp_path / "references")
    export_descriptors(folder, tmp_path / "submission.h5", references=tmp_path / "references")
    with h5py.File(tmp_path / "submission.h5") as file:
        assert sorted(file) == ["query", "query_ids", "reference", "reference_ids"]
        assert file["query_ids"][3].decode() == IDS[3]
        assert file["reference_ids"][:].tolist() == [b"R1", b"R2"]
        np.testing.assert_array_equal(file["reference"], VECTORS[:2])
    Descriptors(["R1"], VECTORS[:1], Provenance("f" * 64, "skew_320")).write(tmp_path / "other")
    with pytest.raises(ValueError, match=r"query are of weights f{12} with preset small_288, reference are of"):
        export_descriptors(folder, tmp_path / "submission.h5", references=tmp_path / "other")


def test_refused(folder, tmp_path, monkeypatch):
    for out in ("a.csv", "absent/a.npy"):
        with pytest.raises(ValueError, match=r"with the extension \.npy, \.faiss, \.parquet, \.hdf5, \.h5"):
            export_descriptors(folder, tmp_path / out)
    with pytest.raises(ValueError, match="only in"):
        export_descriptors(folder, tmp_path / "a.npy", references=folder)
    with pytest.raises(ValueError, match="not a complete set"):
        export_descriptors(tmp_path, tmp_path / "a.npy")
    for module, name in [("pyarrow", "a.parquet"), ("h5py", "a.hdf5")]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"pip install 'sscd_jax\["):
            export_descriptors(folder, tmp_path / name)


@pytest.mark.parametrize("name", ["a.npy.ids.txt", "a.npy.json"])
def test_files_of_others_beside_an_export_stay(name, folder, tmp_path):
    (tmp_path / name).write_text("[1]")
    with pytest.raises(ValueError, match=rf"{name} is in the way: this package did not write it"):
        export_descriptors(folder, tmp_path / "a.npy")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]
    assert (tmp_path / name).read_text() == "[1]"
    (tmp_path / name).unlink()
    for _ in range(2):  # an earlier export is replaced, also one that lacks a file
        export_descriptors(folder, tmp_path / "a.npy")
        (tmp_path / "a.npy.ids.txt").unlink()
    export_descriptors(folder, tmp_path / "a.npy")
    assert (tmp_path / "a.npy.ids.txt").exists()


def test_command(folder, tmp_path, capsys):
    main(["descriptors", "export", str(folder), "--out", str(tmp_path / "a.npy")])
    assert (tmp_path / "a.npy").is_file()
    with pytest.raises(SystemExit):
        main(["descriptors", "export", str(folder), "--out", str(tmp_path / "a.txt")])
    assert "with the extension" in capsys.readouterr().err
