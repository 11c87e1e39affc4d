"""The random numbers of a view."""

import tensorflow as tf


class Uniforms:
    """Uniform numbers in [0, 1), each used once, in order."""

    def __init__(self, values: tf.Tensor):
        self._values, self._used = values, 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """Float32 in [low, high)."""
        return low + (high - low) * self.some(1)[0]

    def some(self, count: int) -> tf.Tensor:
        """Float32 [count] in [0, 1)."""
        self._used += count
        if self._used > self._values.shape[0]:
            raise AssertionError(f"more than {self._values.shape[0]} numbers are drawn for a view: draw more")
        return self._values[self._used - count : self._used]

    def chance(self, probability: float) -> tf.Tensor:
        return self.some(1)[0] < probability

    def integer(self, count: tf.Tensor | int) -> tf.Tensor:
        """Int32 in [0, count)."""
        floor = tf.cast(self.some(1)[0] * tf.cast(count, tf.float32), tf.int32)
        return tf.minimum(floor, count - 1)  # the product may round up
