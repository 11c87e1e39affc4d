"""disc_blur at batch 256, for one GPU: a learning rate and an entropy weight for a batch sixteen times smaller.

    sscd-jax train disc_batch_256 --workdir runs/disc_256 --data.source DISC2021/training

100 epochs of DISC2021 are 390,600 steps. It has not been trained at this size. It differs from disc_blur in two ways:

* The learning rate is 1.2 = 0.075 x sqrt(batch), a rule that gives the paper's 4.8 at batch 4096. The official rule,
  0.3 x batch / 256, would give 0.3. SimCLR (arXiv 2002.05709, appendix B.1) found that the square root works better for
  small batches and few epochs; the demo's network showed no difference (docs/training.md).
* The entropy weight is 10, which the authors recommend as a starting point where the batch or other settings differ
  from theirs (docs/Training.md of the official code). If the weight is too large, descriptors of copies do not come
  together, as happened with the demo's network (docs/training.md). Raise it while positive_sim stays high.
"""

from sscd_jax.config import Config, Data, Loss, Optimizer


def get_config() -> Config:
    return Config(
        data=Data(batch_size=256),
        loss=Loss(entropy_weight=10.0),
        optimizer=Optimizer(base_learning_rate=1.2),
    )
