"""The random numbers that a view is drawn from."""

import tensorflow as tf


class Uniforms:
    """Hands out uniform random numbers, each one once and in order.

    Args:
        values: float32 [N] in [0, 1).
    """

    def __init__(self, values: tf.Tensor):
        self._values, self._used = values, 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """Draws a number in [low, high), float32."""
        return low + (high - low) * self.array(1)[0]

    def array(self, count: int) -> tf.Tensor:
        """Draws numbers in [0, 1), float32 [count]."""
        self._used += count
        if self._used > self._values.shape[0]:
            raise AssertionError(
                f"a view uses more than the {self._values.shape[0]} random numbers that are drawn for it"
            )
        return self._values[self._used - count : self._used]

    def chance(self, probability: float) -> tf.Tensor:
        """Draws true with this probability, bool."""
        return self.array(1)[0] < probability

    def integer(self, count: tf.Tensor | int) -> tf.Tensor:
        """Draws an integer in [0, count), int32."""
        floor = tf.cast(self.array(1)[0] * tf.cast(count, tf.float32), tf.int32)
        return tf.minimum(floor, count - 1)  # the product may round up
