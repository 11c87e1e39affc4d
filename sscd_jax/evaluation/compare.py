"""Compares two evaluations of the same queries: the differences of their metrics, and whether they are chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscd_jax.evaluation.bootstrap import interval

NOISE = "within noise"
_SETTINGS = ("codec", "score_norm", "candidates")


def compare(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compares each metric of each codec and score normalization that both evaluations have.

    Args:
        before, after: rows of `disc.evaluate` or `copydays.evaluate`, with a bootstrap.

    Returns:
        Rows with codec, score_norm and candidates as far as the given rows have them; metric, before, after and
        difference; low and high, the 95 % confidence interval of the difference over the same draws of queries; and
        verdict: better, worse or within noise.

    Raises:
        ValueError: a row has no bootstrap, the queries differ, or no codec and score normalization is in both.
    """
    keys = [_key(row) for row in after]
    pairs = [(old, after[keys.index(_key(old))]) for old in before if _key(old) in keys]
    if not pairs:
        raise ValueError("the two evaluations have no codec and score normalization in common")
    rows = []
    for old, new in pairs:
        if not all(isinstance(row.get("bootstrap"), dict) and "of" in row["bootstrap"] for row in (old, new)):
            raise ValueError("an evaluation has no bootstrap to compare by: evaluate again, without --bootstrap 0")
        if old["bootstrap"]["of"] != new["bootstrap"]["of"]:
            raise ValueError(
                "the two evaluations differ in their queries, ground truth or number of bootstrap samples: evaluate "
                "both on the same"
            )
        for metric in [name for name in old["bootstrap"] if name in new["bootstrap"] and name != "of"]:
            after_, before_ = (np.array(row["bootstrap"][metric], float) for row in (new, old))
            if after_.shape != before_.shape or not all(isinstance(row.get(metric), float) for row in (old, new)):
                raise ValueError(f"the values of {metric} are damaged: evaluate again")
            difference = after_ - before_
            low, high = interval(difference)
            verdict = "better" if low > 0 else "worse" if high < 0 else NOISE
            rows.append(
                {
                    **{name: old[name] for name in _SETTINGS if name in old},
                    "metric": metric,
                    "before": old[metric],
                    "after": new[metric],
                    "difference": new[metric] - old[metric],
                    "low": low,
                    "high": high,
                    "verdict": verdict,
                }
            )
    return rows


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in (*_SETTINGS, "k"))
