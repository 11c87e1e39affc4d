"""The state of training: what a step changes, and how it is initialized."""

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Sharding

from sscd_jax.models import SSCD


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; a checkpoint holds exactly this.

    Attributes:
        step: int32 scalar, the number of steps done.
        params: the parameters of the network.
        batch_stats: the running statistics of batch normalization.
        opt_state: the state of the optimizer.
    """

    step: Array
    params: optax.Params
    batch_stats: optax.Params
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, optax.Params]:
        """The parameters and statistics as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(model: SSCD, optimizer: optax.GradientTransformation, seed: int, sharding: Sharding) -> TrainState:
    """Initializes the state at step 0 on the devices.

    Args:
        model: the network.
        optimizer: the optimizer.
        seed: the random seed of the parameters.
        sharding: where the state is placed.
    """

    def initialize(key: Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, 64, 64, 3)))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))

    # For this many draws, XLA needs several times as long to compile the default generator, threefry.
    return jax.jit(initialize, out_shardings=sharding)(jax.random.key(seed, impl="rbg"))
