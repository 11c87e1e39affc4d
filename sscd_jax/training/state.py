"""What training changes, and how it starts."""

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Sharding

from sscd_jax.models import SSCD


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; a checkpoint holds just this."""

    step: Array
    params: optax.Params
    batch_stats: optax.Params
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, optax.Params]:
        """As `model.apply` wants them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(model: SSCD, optimizer: optax.GradientTransformation, seed: int, sharding: Sharding) -> TrainState:
    """The state at step 0, made on the devices where it will live."""

    def initialize(key: Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, 64, 64, 3)))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))

    # XLA compiles the default generator, threefry, several times more slowly for this many draws.
    return jax.jit(initialize, out_shardings=sharding)(jax.random.key(seed, impl="rbg"))
