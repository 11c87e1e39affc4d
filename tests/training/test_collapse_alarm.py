"""The alarm for collapsed descriptors."""

import pytest

from sscd_jax.training.collapse_alarm import WINDOW, CollapseAlarm


def said(alarm: CollapseAlarm, first: int, steps: int, center: float, nearest: float) -> list[tuple[int, str]]:
    found = []
    for step in range(first, first + steps):
        if message := alarm.check(step, {"center_l2_norm": center, "nearest_negative_sim": nearest}):
            found.append((step, message))
    return found


def test_nothing_is_said_of_good_descriptors_or_in_the_warm_up():
    assert not said(CollapseAlarm(0), 1, 500, 0.1, 0.6)
    alarm = CollapseAlarm(200)
    assert not said(alarm, 1, 200, 0.99, 0.9999)
    assert not said(CollapseAlarm(0), 1, WINDOW - 1, 0.99, 0.9999), "too few steps"


@pytest.mark.parametrize(
    ("center", "nearest", "words"),
    [
        (0.99, 1.0, "--optimizer.absolute-learning-rate where it is set), more --opt"),
        (0.2, 0.999, "Raise --loss.entropy-weight"),
    ],
)
def test_it_says_once_what_to_change_and_again_after_it_was_well(center, nearest, words):
    alarm = CollapseAlarm(100)
    ((step, message),) = said(alarm, 1, 400, center, nearest)
    assert step == 101
    assert message.startswith("step 101: ")
    assert words in message
    assert not said(alarm, 401, 200, 0.1, 0.5)
    ((step, _),) = said(alarm, 601, 200, center, nearest)
    assert 601 < step <= 601 + WINDOW
