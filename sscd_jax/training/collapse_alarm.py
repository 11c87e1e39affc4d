"""An alarm for descriptors that collapse, from a step's metrics."""

from collections import deque
from collections.abc import Mapping

WINDOW = 50  # steps, over which metrics are averaged
# Before training a network gives nearly the same descriptor for everything: norms of the mean near 1.
CENTER_NORM, NEAREST_SIMILARITY = 0.95, 0.995
LOWER_RATE = (
    "a lower learning rate (--optimizer.base-learning-rate, or --optimizer.absolute-learning-rate where it is set)"
)


class CollapseAlarm:
    """Says once what to change when the mean of the last steps passes a limit, and again after it was below.

    Nothing is said in the warm-up, while descriptors are still parting.
    """

    def __init__(self, warmup_steps: int) -> None:
        self._warmup = warmup_steps
        self._center: deque[float] = deque(maxlen=WINDOW)
        self._nearest: deque[float] = deque(maxlen=WINDOW)
        self._said = False

    def check(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Takes the center_l2_norm and nearest_negative_sim of a step; what to say, if anything."""
        self._center.append(metrics["center_l2_norm"])
        self._nearest.append(metrics["nearest_negative_sim"])
        if step <= self._warmup or len(self._center) < WINDOW:
            return None
        center, nearest = sum(self._center) / WINDOW, sum(self._nearest) / WINDOW
        if center > CENTER_NORM:
            message = (
                f"the norm of the mean descriptor is {center:.3f} over the last {WINDOW} steps: all descriptors are "
                f"nearly the same. Go back to an earlier checkpoint, with {LOWER_RATE}, more "
                "--optimizer.warmup-steps or --loss.entropy-warmup-steps, or a lower --loss.entropy-weight"
            )
        elif nearest > NEAREST_SIMILARITY:
            message = (
                f"the nearest negatives have a similarity of {nearest:.3f} over the last {WINDOW} steps: descriptors "
                "of different images fall together. Raise --loss.entropy-weight, or remove duplicates"
            )
        else:
            self._said = False
            return None
        said, self._said = self._said, True
        return None if said else f"step {step}: {message}"
