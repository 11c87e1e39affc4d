"""An alarm for descriptors that collapse, computed from the metrics of the steps."""

from collections import deque
from collections.abc import Mapping

WINDOW = 50  # steps over which metrics are averaged
# An untrained network maps all images to nearly the same descriptor, so that the norm of their mean is near 1.
CENTER_NORM, NEAREST_SIMILARITY = 0.95, 0.995
LOWER_RATE = (
    "a lower learning rate (--optimizer.base-learning-rate, or --optimizer.absolute-learning-rate where it is set)"
)


class CollapseAlarm:
    """Gives advice when the mean over the last steps exceeds a limit, and again only after it was below the limit.

    Args:
        warmup_steps: the number of steps in which it is silent, because descriptors are still moving apart.
    """

    def __init__(self, warmup_steps: int) -> None:
        self._warmup = warmup_steps
        self._center: deque[float] = deque(maxlen=WINDOW)
        self._nearest: deque[float] = deque(maxlen=WINDOW)
        self._said = False

    def check(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Takes the metrics of a step, and returns the message to print, if any.

        Args:
            step: the number of the step.
            metrics: center_l2_norm and nearest_negative_sim, among others.
        """
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
                "of different images coincide. Raise --loss.entropy-weight, or remove duplicates"
            )
        else:
            self._said = False
            return None
        said, self._said = self._said, True
        return None if said else f"step {step}: {message}"
