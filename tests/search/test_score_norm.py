"""Score normalization against numpy. (Golden values: tests/evaluation/test_disc.py.)"""

import numpy as np
import pytest

from sscd_jax.search.score_norm import ScoreNorm, normalize_scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.0[0,2]", (1.0, 0, 2)), ("0.5[3]", (0.5, 3, 3)), (" 2[1,4] ", (2.0, 1, 4)), (".25[0,0]", (0.25, 0, 0))],
)
def test_parse(text, expected):
    assert ScoreNorm.parse(text) == ScoreNorm(*expected)


@pytest.mark.parametrize("text", ["", "1.0", "[0,2]", "1.0[2,0]", "1.0[0,2", "-1[0,2]", "1.0[0;2]", "1.0[-1,2]"])
def test_what_is_not_of_the_form_is_refused(text):
    with pytest.raises(ValueError, match="not of the form weight"):
        ScoreNorm.parse(text)


@pytest.mark.parametrize("norm", [ScoreNorm(1.0, 0, 2), ScoreNorm(0.5, 1, 1)])
def test_scores_are_those_less_the_background(norm):
    rng = np.random.default_rng(0)
    queries, references, training = (rng.normal(size=(n, 6)).astype(np.float32) for n in (5, 7, 20))
    q, r = normalize_scores(queries, references, training, norm)
    assert q.dtype == r.dtype == np.float32
    near = -np.sort(-(queries @ training.T), axis=1)[:, norm.first : norm.last + 1].mean(1, keepdims=True)
    np.testing.assert_allclose(q @ r.T, queries @ references.T - norm.weight * near, rtol=1e-4, atol=1e-5)


def test_too_small_a_background_is_refused():
    one = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="needs 3 training descriptors, there are 2"):
        normalize_scores(one, one, one, ScoreNorm(1.0, 0, 2))
