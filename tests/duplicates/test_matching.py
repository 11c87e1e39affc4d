"""The best references of queries, and those at a threshold, compared with all products in float64."""

import numpy as np
import pytest
from helpers.small_collection import MODEL, PRESET, make_variables
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sscd_jax
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import background, scores
from sscd_jax.duplicates.scores import Scores, best_pairs
from sscd_jax.embedding.collection import made_by, write_descriptors
from sscd_jax.provenance import Provenance


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def described(vectors: np.ndarray, name: str, made_by: str = "w") -> Descriptors:
    return Descriptors([f"{name}{n}" for n in range(len(vectors))], vectors, Provenance(made_by, "p"))


def naive_background(vectors: np.ndarray, references: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The mean of the 10 largest similarities below 0.5."""
    found = []
    for vector in vectors:
        products = np.sort(references[kept] @ vector)[::-1]
        found.append(products[products < 0.5][:10].mean() if (products < 0.5).any() else 0)
    return np.array(found)


@settings(max_examples=60)
@given(
    queries=st.integers(0, 9), references=st.integers(0, 25), dims=st.integers(1, 4), seed=st.integers(0, 10**6),
    k=st.integers(1, 30), size=st.sampled_from([1, 3, 7, 64]), kind=st.sampled_from(["background", "similarity"]),
    threshold=st.none() | st.floats(-1, 1), repeats=st.booleans(),
)  # fmt: skip
def test_find_copies_ranks_as_a_sort_does(queries, references, dims, seed, k, size, kind, threshold, repeats):
    rng = np.random.default_rng(seed)
    one, two = (unit(rng.normal(size=(n, dims)) + 1e-9) for n in (queries, references))
    if repeats and references:  # many equal ones
        two = two[rng.integers(0, max(references // 4, 1), references)]
    before = scores.BLOCK, background.BLOCK
    scores.BLOCK = background.BLOCK = size
    try:
        found = sscd_jax.find_copies(described(one, "q"), described(two, "r"), k=k, score=kind, threshold=threshold)
    finally:
        scores.BLOCK, background.BLOCK = before
    expected = one.astype(np.float64) @ two.astype(np.float64).T
    if kind == "background":
        kept = background.first_pass(two, np.arange(references)).is_kept
        mine, theirs = (naive_background(some, two, kept) for some in (one, two))
        if references and queries:
            expected = expected - (mine[:, None] + theirs[None]) / 2
    assert found.query_row.tolist() == sorted(found.query_row.tolist())
    for row, pairs in found.by_query():
        rows, values = found.reference_row[pairs], found.score[pairs]
        assert values == pytest.approx(expected[row, rows], abs=1e-6)
        assert values.tolist() == sorted(values, reverse=True)
        assert len(set(rows.tolist())) == len(rows)
        wanted = np.sort(expected[row])[::-1]
        if threshold is None:
            assert values == pytest.approx(wanted[:k], abs=1e-6)
            assert found.rank[pairs].tolist() == [*range(1, min(k, references) + 1)]
        else:
            assert (wanted >= threshold + 1e-6).sum() <= len(values) <= (wanted >= threshold - 1e-6).sum()
    assert found.query.tolist() == [f"q{n}" for n in found.query_row]
    assert found.reference.tolist() == [f"r{n}" for n in found.reference_row]


def test_of_equal_scores_the_first_counts():
    vectors = unit(np.ones((9, 3)))
    (found,) = best_pairs(Scores.plain(vectors), 2, np.array([0, 1]), np.array([8, 3, 5, 4, 2]))
    assert found[0].tolist() == [0, 0, 1, 1]
    assert found[1].tolist() == [8, 3, 8, 3]


def test_the_best_of_a_large_set_are_those_of_faiss():
    from sscd_jax.search.knn import knn

    rng = np.random.default_rng(0)
    one, two = unit(rng.normal(size=(50, 16))), unit(rng.normal(size=(5000, 16)))
    found = sscd_jax.find_copies(described(one, "q"), described(two, "r"), k=7, score="similarity")
    expected, indexes = knn(one, two, 7, "inner_product", backend="faiss")
    assert found.reference_row.reshape(50, 7).tolist() == indexes.tolist()
    np.testing.assert_allclose(found.similarity.reshape(50, 7), expected, atol=1e-6)


@pytest.fixture(scope="module")
def model() -> sscd_jax.Model:
    variables = make_variables()
    return sscd_jax.Model(MODEL, variables, made_by(MODEL, variables, PRESET, "narrow"), PRESET)


def test_images_on_disk_and_in_memory(images, tmp_path, model):
    paths = sorted(images.iterdir())[:8]
    query = Image.open(paths[3]).resize((90, 60))
    found = sscd_jax.find_copies([query, np.asarray(Image.open(paths[5]))], [*map(str, paths)], model=model, k=3)
    assert found.query.tolist() == ["0"] * 3 + ["1"] * 3
    assert found.reference[[0, 3]].tolist() == [str(path.with_suffix("")) for path in (paths[3], paths[5])]
    assert found.similarity[3] == pytest.approx(1, abs=1e-5)
    assert found._repr_html_().count("data:image/jpeg") == 8
    assert "2 queries among 8 references" in repr(found)
    pd = pytest.importorskip("pandas")
    table = found.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["query", "rank", "match", "similarity", "score", "copy"]
    assert table["rank"].tolist() == [1, 2, 3] * 2

    write_descriptors(MODEL, model.variables, open_source(str(images)), PRESET, tmp_path / "d", batch_size=8)
    references = Descriptors.read(tmp_path / "d")
    near = sscd_jax.find_copies(query, references, model=model, k=1)  # in the preset of the descriptors
    assert near.reference.tolist() == [paths[3].stem]
    assert near._repr_html_().count("data:image/jpeg") == 2
    both = sscd_jax.find_copies(references, references, k=1, score="similarity", threshold=0.9999)
    assert set(zip(both.query, both.reference, strict=True)) >= {(one, one) for one in references.ids}


def test_names_that_are_markup_and_images_that_are_gone():
    vectors = unit(np.ones((1, 3)))
    one = Descriptors(["<b>a</b>"], vectors, Provenance("w", "p"))
    shown = sscd_jax.find_copies(one, one)._repr_html_()
    assert "<b>" not in shown
    assert "data:" not in shown


def test_what_cannot_be_compared():
    vectors = unit(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"queries are of weights w .* references are of weights other"):
        sscd_jax.find_copies(described(vectors, "q"), described(vectors, "r", "other"))
    with pytest.raises(ValueError, match="references: the vectors do not have norm 1"):
        sscd_jax.find_copies(described(vectors, "q"), described(vectors * 2, "r"))
    with pytest.raises(ValueError, match="k is 0"):
        sscd_jax.find_copies(described(vectors, "q"), described(vectors, "r"), k=0)


def test_queries_that_cannot_be_read(images, tmp_path, model):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    queries = [str(tmp_path / "broken.jpg"), str(next(images.iterdir()))]
    with pytest.warns(UserWarning, match="1 of 2 images cannot be read"):
        found = sscd_jax.find_copies(queries, str(images), model=model, k=1)
    assert found.query.tolist() == [queries[1].removesuffix(".jpg")]
    with pytest.warns(UserWarning, match="1 of 1 images cannot be read"):
        found = sscd_jax.find_copies(queries[0], str(images), model=model)
    assert len(found) == 0
    found._repr_html_()
    pytest.importorskip("pandas")
    assert found.to_pandas().empty
