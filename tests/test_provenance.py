"""What is said where two sets of descriptors were not made alike."""

import warnings

import numpy as np
import pytest

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.provenance import Provenance


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"backbone": "resnet50", "pool_param": 1.0}, r" \(the networks have pool_param 3.0 and 1.0\): embed both"),
        ({"backbone": "resnet50", "pool_param": 3.0}, r" \(the networks are alike; their weights differ\): embed both"),
        (None, "skew_320: embed both"),
    ],
)
def test_what_differs_is_said(network, said):
    mine = Provenance("f" * 64, "skew_320", {"network": {"backbone": "resnet50", "pool_param": 3.0}})
    other = Provenance("e" * 64, "skew_320", {"network": network} if network else {})
    queries, references = (Descriptors(["a"], np.zeros((1, 4), np.float32), made_by) for made_by in (mine, other))
    with pytest.raises(ValueError, match=said):
        check_same_provenance(queries=queries, references=references)


def test_another_computation_is_said_with_how_near_it_comes():
    def computed(computation: str, probe: object) -> Descriptors:
        details = {} if probe is None else {"probe": probe}
        return Descriptors(["a"], np.ones((1, 2), np.float32), Provenance("f" * 64, "skew_320", details, computation))

    one = computed("float32 by jax on cpu", [[1.0, 0.0], [0.0, 2.0]])
    other = computed("bfloat16 by jax on cpu", [[1.0, 0.0], [3.0, 4.0]])
    with pytest.warns(UserWarning, match=r"queries were computed in float32 .*, references in bfloat16 .* 0\.80000"):
        check_same_provenance(queries=one, references=other)
    with pytest.warns(UserWarning, match="their agreement was not measured"):
        check_same_provenance(queries=one, references=computed("float32 by jax on gpu", None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same_provenance(queries=one, references=one)
