"""The configuration of a training run: frozen dataclasses, one for each concern, checked when they are made.

A recipe is a Python file with a function `get_config() -> Config`. Every field is an option of `sscd-jax train`, such
as `--optimizer.base-learning-rate 0.1`. The default values are the paper's recipe.

The string below a field is the help of its option, which keeps its line breaks: break lines where a sentence ends.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

OFFICIAL_VALIDATION = Preset("skew", 288)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Data:
    """The training images, and how they are augmented."""

    source: str = ""
    """The training images: a folder (searched recursively), a text file of paths, a .tar or .parquet file, a pack,
    tfds:NAME for a prepared TFDS data set, or sample for the bundled photographs.
    Paths can be on disk or in an object store, such as gs://BUCKET/NAME."""
    split: str = "train"
    """Split of the TFDS data set. Ignored for other sources."""
    data_dir: str | None = None
    """Folder that holds the TFDS data sets. By default, TFDS chooses it: ~/tensorflow_datasets."""
    batch_size: int = 4096
    """Number of images in the global batch, which is divided among all devices. Each image gives two views.
    The learning rate is scaled with this number."""
    image_size: int = 224
    """Height and width of a view, in pixels."""
    augmentation: Literal["SIMCLR", "STRONG_BLUR", "ADVANCED", "HEAVY"] = "STRONG_BLUR"
    """The set of augmentations. SIMCLR, STRONG_BLUR and ADVANCED are the paper's; HEAVY adds stronger edits.
    ADVANCED and HEAVY need the extra augly.
    `sscd-jax preview` shows what each of them does to your images."""
    mixup: bool = False
    """Mix 5 % of the views with another view, half of them by mixup and half by cutmix."""
    mixup_group: int = 128
    """Number of images whose views are mixed with one another; it must divide data.batch_size.
    The official code mixes within one GPU's batch, which was 128 images."""
    color_ops: Literal["host", "device"] = "host"
    """Where color jitter, grayscale, blur and mixup are computed. The views are the same.
    Choose device where the cores of the host cannot prepare images as fast as the accelerators train."""
    min_crop_area: float = 0.08
    """Smallest share of an image's area that a view shows, from 0 to 1.
    Raise it for small images and narrow networks, which do not learn from crops as small as the paper's."""
    workers: int | None = None
    """Number of threads on each host that augment images, and of those that read them.
    By default, one thread per core augments, and two threads per core read."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 2, f"data.batch_size is {self.batch_size}; the loss needs negatives: at least 2")
        _require(
            self.image_size >= 32, f"data.image_size is {self.image_size}; the network halves it 5 times: 32 or more"
        )
        _require(0 < self.min_crop_area <= 1, f"data.min_crop_area is {self.min_crop_area}; it must be in (0, 1]")
        _require(self.mixup_group > 1, f"data.mixup_group is {self.mixup_group}; mixing takes at least 2 images")
        fitting = max(size for size in range(1, self.mixup_group + 1) if self.batch_size % size == 0)
        _require(
            not self.mixup or fitting == self.mixup_group,
            f"data.batch_size {self.batch_size} is not a multiple of data.mixup_group {self.mixup_group}: take "
            + (f"--data.mixup-group {fitting}, or " if fitting > 1 else "")
            + "another batch size",
        )
        _require(self.workers is None or self.workers > 0, f"data.workers is {self.workers}; it must be positive")


@dataclass(frozen=True)
class Model:
    """The network that computes descriptors."""

    backbone: Literal["resnet18", "resnet50", "resnext101_32x4d", "resnext101_32x8d"] = "resnet50"
    """The ResNet that the pooled features come from."""
    dims: int = 512
    """Number of dimensions of a descriptor."""
    width: int = 64
    """Number of channels of the first convolution. All other layers are proportional to it."""
    pool_param: float = 3.0
    """Exponent p of GeM pooling. 1 is average pooling; larger values approach max pooling."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the activations. Parameters, batch statistics, pooling and loss are always float32.
    bfloat16 halves the memory that activations take."""
    remat: bool = False
    """Recompute the activations inside each residual block during the backward pass instead of storing them.
    This takes a third more computation and half of the memory on TPUs; it saves no memory on CPUs."""

    def __post_init__(self) -> None:
        _require(self.dims > 0 and self.width > 0, "model.dims and model.width must be positive")
        _require(self.pool_param > 0, f"model.pool_param is {self.pool_param}; it must be positive")


@dataclass(frozen=True)
class Loss:
    """The loss: InfoNCE and an entropy regularizer."""

    temperature: float = 0.05
    """InfoNCE temperature."""
    entropy_weight: float = 30.0
    """Weight of the differential-entropy (KoLeo) regularizer, which spreads descriptors over the sphere; 0 disables it.
    Lower it (the authors suggest 10) if the similarity of positive pairs stays low."""
    entropy_warmup_steps: int = 0
    """Number of steps over which the entropy weight grows linearly from 0. The paper uses no such warm-up."""

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"loss.temperature is {self.temperature}; it must be positive")
        _require(self.entropy_warmup_steps >= 0, "loss.entropy_warmup_steps must not be negative")
        _require(self.entropy_weight >= 0, f"loss.entropy_weight is {self.entropy_weight}; it must not be negative")


@dataclass(frozen=True)
class Optimizer:
    """The LARS optimizer, and the schedule of the learning rate."""

    base_learning_rate: float = 0.3
    """Peak learning rate for a batch of 256 images. It is scaled linearly with data.batch_size."""
    absolute_learning_rate: float | None = None
    """Peak learning rate without any scaling. If given, base_learning_rate is ignored."""
    warmup_epochs: float = 5
    """Length of the linear warm-up of the learning rate, in epochs. A cosine decay to 0 follows."""
    warmup_steps: int | None = None
    """Length of the warm-up in steps. If given, warmup_epochs is ignored."""
    weight_decay: float = 1e-6
    """Coefficient of the L2 weight decay, which LARS adds to the gradient before it scales it."""
    momentum: float = 0.9
    """Momentum coefficient, at least 0 and below 1."""
    trust_coefficient: float = 1e-3
    """LARS trust coefficient: the relative size of a parameter's update, before the learning rate."""
    eps: float = 1e-8
    """Small number that LARS adds to the denominator of the trust ratio."""
    exclude_bias_and_norm: bool = False
    """Apply neither weight decay nor LARS scaling to biases and batch normalization.
    The official code applies both to them, too."""

    def __post_init__(self) -> None:
        _require(0 <= self.momentum < 1, f"optimizer.momentum is {self.momentum}; it must be in [0, 1)")
        rate = self.base_learning_rate if self.absolute_learning_rate is None else self.absolute_learning_rate
        _require(0 < rate < math.inf, f"the learning rate is {rate}; it must be positive and finite")
        _require(0 <= self.weight_decay < math.inf, f"optimizer.weight_decay is {self.weight_decay}; at least 0")
        _require(self.trust_coefficient > 0, f"optimizer.trust_coefficient is {self.trust_coefficient}; above 0")
        _require(self.eps >= 0, f"optimizer.eps is {self.eps}; it must not be negative")


@dataclass(frozen=True)
class Validation:
    """Copy detection on a set like DISC2021, measured during training. It is skipped unless queries are given."""

    queries: str = ""
    """The query images, given in the same way as data.source."""
    references: str = ""
    """The reference images, which are searched for copies of the queries."""
    ground_truth: str = ""
    """CSV file with the header query_id,reference_id and one line per pair of copies.
    An id is the path of an image relative to its folder, without the extension."""
    every_epochs: int = 1
    """Number of epochs between two validations. There is always one at the end of the run."""
    preset: PresetName = "custom"
    """How images are resized and normalized. The default, custom, uses the options validation.custom.*."""
    custom: Preset = OFFICIAL_VALIDATION
    """The preset that is used if validation.preset is custom. The default is that of the official validation."""
    batch_size: int = 256
    """Number of images in a batch, which is divided among the devices of a host. Every host embeds all images."""

    @property
    def chosen(self) -> Preset:
        """The preset of the validation."""
        is_default = self.preset != "custom" and self.custom == OFFICIAL_VALIDATION
        return choose(self.preset, CUSTOM if is_default else self.custom)

    def __post_init__(self) -> None:
        given = [bool(self.queries), bool(self.references), bool(self.ground_truth)]
        _require(all(given) or not any(given), "validation needs all of queries, references and ground_truth, or none")
        _require(self.batch_size > 0, f"validation.batch_size is {self.batch_size}; it must be positive")
        _require(self.every_epochs > 0, f"validation.every_epochs is {self.every_epochs}; it must be positive")


@dataclass(frozen=True)
class Checkpoint:
    """How often checkpoints are saved, and how many are kept."""

    every_steps: int | None = None
    """Number of steps between two checkpoints; by default, one epoch. There is always one at the end of the run."""
    keep: int = 3
    """Number of latest checkpoints to keep, at least 2, in addition to the one with the best validation uAP."""

    def __post_init__(self) -> None:
        _require(self.every_steps is None or self.every_steps > 0, "checkpoint.every_steps must be positive")
        _require(
            self.keep > 1,
            f"checkpoint.keep is {self.keep}; it must be at least 2, as the loss may not be finite after the last one",
        )


@dataclass(frozen=True)
class Config:
    """The settings of a training run."""

    seed: int = 0
    """Random seed of initialization, shuffling and augmentation."""
    epochs: int = 100
    """Length of the run in epochs."""
    steps: int | None = None
    """Length of the run in steps. If given, epochs is ignored."""
    profile: bool = False
    """Write a trace of a few steps to WORKDIR/profile, which TensorBoard and Perfetto can show."""
    microbatch: int | None = None
    """Number of images that all devices together embed at once. Set it if a batch does not fit into their memory.
    The gradient is still that of the loss over the complete batch.
    The statistics of batch normalization are those of each microbatch."""
    init_from: str = ""
    """Weights to start from: a file of any supported format, a training run, or the name of published weights.
    A run that is resumed ignores this option."""
    init_projection: bool = True
    """Also take the projection (the last layer) from init_from.
    Otherwise, or if init_from has none of this size, the projection is initialized randomly."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    validation: Validation = field(default_factory=Validation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    @property
    def preset(self) -> Preset:
        """The preset that the network of this run is for.

        It is that of the validation, unless this is the official one, which skews images to save time. Otherwise it is
        small_288, by which the paper evaluates networks trained on images of 224 pixels, scaled to data.image_size.
        """
        if self.validation.chosen != OFFICIAL_VALIDATION:
            return self.validation.chosen
        return Preset("short", max(32, round(self.data.image_size * 288 / 224)))

    def __post_init__(self) -> None:
        _require(self.epochs > 0, f"epochs is {self.epochs}; it must be positive")
        _require(self.steps is None or self.steps > 0, f"steps is {self.steps}; it must be positive")
        batch, piece = self.data.batch_size, self.microbatch
        _require(
            piece is None or (piece > 0 and batch % piece == 0),
            f"microbatch is {piece}; it must divide data.batch_size {batch}",
        )
        _require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must be in [0, 2^31)")


@dataclass(frozen=True)
class Length:
    """The lengths of an epoch, of the complete run and of its warm-up, in steps."""

    epoch: int
    total: int
    warmup: int


def run_length(config: Config, examples: int) -> Length:
    """Returns the lengths of a run in steps. The last, incomplete batch of an epoch is dropped.

    Args:
        config: The configuration of the run.
        examples: Number of training images.

    Raises:
        ValueError: There are fewer images than one batch needs, or the warm-up does not fit into the run.
    """
    batch = config.data.batch_size
    if examples < batch:
        raise ValueError(
            f"{config.data.source} has {examples} images, fewer than a batch of {batch}: "
            f"give more images, or --data.batch-size {max(examples, 2)} or less"
        )
    epoch = examples // batch
    total = config.epochs * epoch if config.steps is None else config.steps
    optimizer = config.optimizer
    warmup = round(optimizer.warmup_epochs * epoch) if optimizer.warmup_steps is None else optimizer.warmup_steps
    if not 0 <= warmup < total:
        raise ValueError(
            f"the warm-up of {warmup} steps does not fit into a run of {total} steps ({epoch} steps an epoch): "
            f"train longer, or give --optimizer.warmup-steps {total // 10}"
        )
    return Length(epoch, total, warmup)


def learning_rate(config: Config) -> float:
    """Returns the peak learning rate (official train.py: 0.3 for a batch of 256, linear in the batch size)."""
    if config.optimizer.absolute_learning_rate is not None:
        return config.optimizer.absolute_learning_rate
    return config.optimizer.base_learning_rate * config.data.batch_size / 256


def differences(before: Config, after: Config) -> list[str]:
    """Returns the settings that differ, each as "data.batch_size 8 -> 4"."""
    old, new = _flat(to_dict(before)), _flat(to_dict(after))
    return [f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]


def of_all_processes(config: Config) -> dict[str, str]:
    """Returns the settings, by name, that must be equal in all processes: all but those about a host's images."""
    own = ("data.source", "data.data_dir", "data.workers")
    return {name: json.dumps(value) for name, value in _flat(to_dict(config)).items() if name not in own}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested dictionaries that can be written as JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """Returns the configuration that `to_dict` was given."""
    validation = dict(values["validation"])
    if "image_size" in validation:  # runs of November 2026 and before
        validation["custom"] = {"mode": "skew", "size": validation.pop("image_size")}
    return _made(Config, values | {"validation": validation})


def _made(kind: type, values: dict[str, Any]) -> Any:
    types = {field_.name: field_.type for field_ in dataclasses.fields(kind)}
    made: dict[str, Any] = {}
    for name, value in values.items():
        type_ = types.get(name)
        if isinstance(type_, type) and dataclasses.is_dataclass(type_):
            made[name] = _made(type_, value)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
    return kind(**made)
