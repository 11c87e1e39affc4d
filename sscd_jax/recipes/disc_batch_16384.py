"""disc_blur at batch 16384, for a TPU pod: a lower learning rate than by the official rule, and a longer warm-up.

    sscd-jax train disc_batch_16384 --workdir runs/disc_16384 --data.source DISC2021/training

100 epochs of DISC2021 are 6,100 steps, 61 an epoch. It has not been trained at this size. It differs from disc_blur in
three ways:

* The learning rate is 9.6 = 0.075 x sqrt(batch), as in SimCLR (arXiv 2002.05709, appendix B.1). The official rule,
  0.3 x batch / 256, would give 19.2: LARS would then change a layer by up to 1.9 % a step, and with momentum by ten
  times that.
* The warm-up is 10 epochs, 610 steps. 5 epochs would be 305 steps, a quarter of the paper's 1,220.
* The entropy weight is 10, which the authors recommend as a starting point (see disc_batch_256), and grows to that
  value during the warm-up. Parameters that start at 0 (the last scale of each residual block, and biases) take their
  first step by the plain gradient, which LARS does not scale, at a rate of 0.0158, four times that of disc_blur. The
  entropy term provides most of that gradient while all descriptors are nearly equal (docs/training.md).
"""

from sscd_jax.config import Config, Data, Loss, Optimizer


def get_config() -> Config:
    return Config(
        data=Data(batch_size=16384),
        loss=Loss(entropy_weight=10.0, entropy_warmup_steps=610),
        optimizer=Optimizer(base_learning_rate=0.15, warmup_epochs=10),  # for 256: 9.6 at 16384
    )
