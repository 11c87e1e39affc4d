"""disc_blur at batch 16384, for a pod: a lower rate than the official rule's, and a longer warm-up.

    sscd-jax train configs/disc_batch_16384.py --workdir runs/disc_16384 --data.source DISC2021/training

100 epochs of DISC2021 are 6,100 steps, 61 an epoch. It was not trained at this size. What differs from
configs/disc_blur.py:

* The rate is 9.6 = 0.075 x sqrt(batch), as in SimCLR (arXiv 2002.05709, appendix B.1). The official rule,
  0.3 x batch / 256, gives 19.2: LARS then changes a layer by up to 1.9 % a step, and with momentum by ten times that.
* The warm-up is 10 epochs, 610 steps: 5 would be 305, a quarter of the paper's 1,220.
* The entropy weight is 10, with which the authors advise to begin (configs/disc_batch_256.py), and grows to it over the
  warm-up. Parameters that begin at 0 (the last scale of each residual block, biases) take their first step by the plain
  gradient, unscaled by LARS, at a rate of 0.0158, four times that of disc_blur; and the entropy term has most of that
  gradient while all descriptors are nearly the same (docs/training.md).
"""

from sscd_jax.config import Config, Data, Loss, Optimizer


def get_config() -> Config:
    return Config(
        data=Data(batch_size=16384),
        loss=Loss(entropy_weight=10.0, entropy_warmup_steps=610),
        optimizer=Optimizer(base_learning_rate=0.15, warmup_epochs=10),  # for 256: 9.6 at 16384
    )
