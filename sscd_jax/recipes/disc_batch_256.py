"""disc_blur at batch 256, for one GPU: a rate and an entropy weight for a batch sixteen times smaller.

    sscd-jax train configs/disc_batch_256.py --workdir runs/disc_256 --data.source DISC2021/training

100 epochs of DISC2021 are 390,600 steps. It was not trained at this size. What differs from configs/disc_blur.py:

* The rate is 1.2 = 0.075 x sqrt(batch), which is 4.8 at 4096 as the official rule 0.3 x batch / 256 has it; that gives
  0.3 here. SimCLR (arXiv 2002.05709, appendix B.1) found the square root better at small batches and few epochs; the
  demo's network showed no difference (docs/training.md).
* The entropy weight is 10, with which the authors advise to begin where the batch, among others, differs from theirs
  (docs/Training.md of the official code): if it is too large, descriptors of copies do not come together, as in the
  demo's network (docs/training.md). Raise it while positive_sim stays high.
"""

from sscd_jax.config import Config, Data, Loss, Optimizer


def get_config() -> Config:
    return Config(
        data=Data(batch_size=256),
        loss=Loss(entropy_weight=10.0),
        optimizer=Optimizer(base_learning_rate=1.2),
    )
