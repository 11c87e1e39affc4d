"""disc_blur at batch 1024, for a few GPUs. The recipe disc_batch_256 gives the reasons.

    sscd-jax train disc_batch_1024 --workdir runs/disc_1024 --data.source DISC2021/training

100 epochs of DISC2021 are 97,600 steps. It has not been trained at this size. It differs from disc_blur in two ways:

* The learning rate is 2.4 = 0.075 x sqrt(batch); the official rule, 0.3 x batch / 256, would give 1.2.
* The entropy weight is 10, which the authors recommend as a starting point.
"""

from sscd_jax.config import Config, Data, Loss, Optimizer


def get_config() -> Config:
    return Config(
        data=Data(batch_size=1024),
        loss=Loss(entropy_weight=10.0),
        optimizer=Optimizer(base_learning_rate=0.6),  # for 256: 2.4 at 1024
    )
