"""Predictions of few queries, with many ties, and the truth about them."""

import numpy as np
from hypothesis import strategies as st

from sscd_jax.evaluation.metrics import Predictions

# Few scores, so that there are many ties.
triples = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5, 0.9])),
    min_size=1,
    max_size=30,
    unique_by=lambda t: t[:2],
)
truths = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=1, max_size=12)


def predictions(found, truth) -> Predictions:
    query, reference, score = (np.array(part) for part in zip(*found, strict=True))
    is_match = np.array([(q, r) in truth for q, r, _ in found])
    positives = np.bincount([q for q, _ in truth], minlength=8)
    return Predictions(query, reference, score, is_match, positives)
