"""The configuration of a training run: frozen dataclasses, one for each concern, checked when they are made.

A recipe is a file in configs/ with `get_config() -> Config`. Every field is an option of `sscd-jax train`:
`--optimizer.base-learning-rate 0.1`. The defaults are the paper's recipe.
"""

import dataclasses
import importlib.util
import json
import math
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sscd_jax.presets import Preset, PresetName

OFFICIAL_VALIDATION = Preset("skew", 288)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Data:
    """Training images and what is done to them."""

    source: str = ""
    """A folder (searched recursively), a text file of paths, a .tar or .parquet file, a pack, tfds:NAME (a prepared
    TFDS data set), or sample; on disk or in a store, as gs://BUCKET/NAME."""
    split: str = "train"
    """Split of a TFDS data set."""
    data_dir: str | None = None
    """Where TFDS data sets are kept; by default where TFDS puts them."""
    batch_size: int = 4096
    """Images in the global batch, over all devices; each gives two views."""
    image_size: int = 224
    """Side of a view in pixels."""
    augmentation: Literal["SIMCLR", "STRONG_BLUR", "ADVANCED", "HEAVY"] = "STRONG_BLUR"
    """The paper's augmentation settings, and a heavier one of ours; ADVANCED and HEAVY need the extra augly."""
    mixup: bool = False
    """Mix one view in twenty with another one, half of these by cutmix."""
    mixup_group: int = 128
    """Images whose views are mixed among one another; the official code has 128 on a GPU."""
    color_ops: Literal["host", "device"] = "host"
    """Where jitter, gray, blur and mixing are computed: device spares hosts with few cores, the views are the same."""
    min_crop_area: float = 0.08
    """Smallest share of an image that a view shows; small images and small networks need more than the paper."""
    workers: int | None = None
    """Threads for augmenting on each host, and as many for reading; by default one a core, and two for reading."""

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
    """The network."""

    backbone: Literal["resnet18", "resnet50", "resnext101_32x4d", "resnext101_32x8d"] = "resnet50"
    """Which ResNet."""
    dims: int = 512
    """Length of a descriptor."""
    width: int = 64
    """Channels of the first convolution; all others are multiples of it."""
    pool_param: float = 3.0
    """Power p of GeM pooling; 1 is mean pooling."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the activations; parameters, statistics, pooling and loss are float32."""
    remat: bool = False
    """Compute the inside of each residual block again for the gradient: a third more computation, for
    half of the memory on TPUs, and none less on CPUs."""

    def __post_init__(self) -> None:
        _require(self.dims > 0 and self.width > 0, "model.dims and model.width must be positive")
        _require(self.pool_param > 0, f"model.pool_param is {self.pool_param}; it must be positive")


@dataclass(frozen=True)
class Loss:
    """InfoNCE and the entropy regularizer."""

    temperature: float = 0.05
    """Of InfoNCE."""
    entropy_weight: float = 30.0
    """Weight of the differential-entropy (KoLeo) term; 0 leaves it out."""
    entropy_warmup_steps: int = 0
    """Steps over which that weight grows from 0, linearly; the paper has none."""

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"loss.temperature is {self.temperature}; it must be positive")
        _require(self.entropy_warmup_steps >= 0, "loss.entropy_warmup_steps must not be negative")
        _require(self.entropy_weight >= 0, f"loss.entropy_weight is {self.entropy_weight}; it must not be negative")


@dataclass(frozen=True)
class Optimizer:
    """LARS and its schedule."""

    base_learning_rate: float = 0.3
    """Learning rate for a batch of 256 images; scaled linearly with data.batch_size."""
    absolute_learning_rate: float | None = None
    """Learning rate as it is; takes the place of base_learning_rate."""
    warmup_epochs: float = 5
    """Length of the linear warm-up."""
    warmup_steps: int | None = None
    """The same in steps; takes the place of warmup_epochs."""
    weight_decay: float = 1e-6
    """L2 decay, inside the LARS scaling."""
    momentum: float = 0.9
    """Momentum."""
    trust_coefficient: float = 1e-3
    """LARS's trust coefficient."""
    eps: float = 1e-8
    """LARS's epsilon."""
    exclude_bias_and_norm: bool = False
    """Neither decay nor scale biases and batch normalization; the official code does not exclude them."""

    def __post_init__(self) -> None:
        _require(0 <= self.momentum < 1, f"optimizer.momentum is {self.momentum}; it must be in [0, 1)")
        rate = self.base_learning_rate if self.absolute_learning_rate is None else self.absolute_learning_rate
        _require(0 < rate < math.inf, f"the learning rate is {rate}; it must be positive and finite")
        _require(0 <= self.weight_decay < math.inf, f"optimizer.weight_decay is {self.weight_decay}; at least 0")
        _require(self.trust_coefficient > 0, f"optimizer.trust_coefficient is {self.trust_coefficient}; above 0")
        _require(self.eps >= 0, f"optimizer.eps is {self.eps}; it must not be negative")


@dataclass(frozen=True)
class Validation:
    """Copy detection on a DISC-like set now and then; left out while no queries are given."""

    queries: str = ""
    """Images to find copies of: a source as data.source."""
    references: str = ""
    """Images that are searched."""
    ground_truth: str = ""
    """CSV file with the header query_id,reference_id; ids are paths without the ending, relative to the folder."""
    every_epochs: int = 1
    """Epochs from one validation to the next; there is always one at the end."""
    preset: PresetName = "custom"
    """How images are resized and normalized."""
    custom: Preset = OFFICIAL_VALIDATION
    """The preset custom, by default that of the official validation."""
    batch_size: int = 256
    """Images a batch, over the devices of a host; every host computes the whole."""

    def __post_init__(self) -> None:
        given = [bool(self.queries), bool(self.references), bool(self.ground_truth)]
        _require(all(given) or not any(given), "validation needs all of queries, references and ground_truth, or none")
        _require(self.batch_size > 0, f"validation.batch_size is {self.batch_size}; it must be positive")
        _require(self.every_epochs > 0, f"validation.every_epochs is {self.every_epochs}; it must be positive")


@dataclass(frozen=True)
class Checkpoint:
    """What is saved, and how often."""

    every_steps: int | None = None
    """Steps from one checkpoint to the next; by default an epoch. There is always one at the end."""
    keep: int = 3
    """Latest checkpoints that are kept, besides the one of the best validation uAP."""

    def __post_init__(self) -> None:
        _require(self.every_steps is None or self.every_steps > 0, "checkpoint.every_steps must be positive")
        _require(
            self.keep > 1,
            f"checkpoint.keep is {self.keep}; at least 2, as the last may turn out to give no finite loss",
        )


@dataclass(frozen=True)
class Config:
    """A training run."""

    seed: int = 0
    """Of the parameters, the order and the augmentations."""
    epochs: int = 100
    """Length of the run."""
    steps: int | None = None
    """The same in steps; takes the place of epochs."""
    profile: bool = False
    """Write a trace of some steps to WORKDIR/profile, for TensorBoard or Perfetto."""
    microbatch: int | None = None
    """Images that are embedded at once, over all devices, where the batch is too large for their memory: the gradient
    is that of the loss over the whole batch, batch normalization's statistics are those of each piece."""
    init_from: str = ""
    """Weights to start from, of any format: a file, a training run, or the name of fetched weights."""
    init_projection: bool = True
    """Start from the projection of init_from too; without it, or where it has none, the projection is drawn anew."""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    validation: Validation = field(default_factory=Validation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

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
    """The lengths of a run in steps."""

    epoch: int
    total: int
    warmup: int


def run_length(config: Config, examples: int) -> Length:
    """The lengths in steps of a run over so many examples; the last, incomplete batch of an epoch is left out.

    Raises:
        ValueError: there are fewer examples than one batch needs, or the warm-up does not fit into the run.
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
            f"train longer, or --optimizer.warmup-steps {total // 10}"
        )
    return Length(epoch, total, warmup)


def learning_rate(config: Config) -> float:
    """The learning rate after the warm-up (official train.py: 0.3 for a batch of 256, linear in the batch)."""
    if config.optimizer.absolute_learning_rate is not None:
        return config.optimizer.absolute_learning_rate
    return config.optimizer.base_learning_rate * config.data.batch_size / 256


def load(path: Path) -> Config:
    """The `get_config()` of a Python file.

    Raises:
        ValueError: there is no such file, it fails, or it has no get_config() that returns a Config.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file; recipes are in configs/, as configs/disc_blur.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except Exception as error:  # whatever a recipe can do
        line = max(
            (f.lineno or 0 for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)), default=0
        )
        where = f"{path}, line {line}" if line else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise ValueError(f"{path} has no function get_config() that returns a sscd_jax.config.Config")
    return config


def differences(before: Config, after: Config) -> list[str]:
    """The settings that are not the same, as "data.batch_size 8 -> 4"."""
    old, new = _flat(to_dict(before)), _flat(to_dict(after))
    return [f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]


def of_all_hosts(config: Config) -> dict[str, str]:
    """The settings, by name, that all processes of a run share; each may have the images at a place of its own."""
    own = ("data.source", "data.data_dir", "data.workers")
    return {name: json.dumps(value) for name, value in _flat(to_dict(config)).items() if name not in own}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def to_dict(config: Config) -> dict[str, Any]:
    """As JSON wants it."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`."""
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
