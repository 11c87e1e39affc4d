"""How images are resized and normalized for inference: one contract for validation, embed, exports and evaluation."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Mode = Literal["short", "long", "skew", "crop"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

LONGEST_ASPECT = 32
# Long and short side of the canvases: those of photographs, and beyond them doubling.
_ASPECTS = ((1, 1), (4, 3), (3, 2), (16, 9), (9, 4), (3, 1), (4, 1), (8, 1), (16, 1), (LONGEST_ASPECT, 1))


@dataclass(frozen=True)
class Preset:
    """What becomes of an image before the network sees it. Resizing is Pillow's: bilinear with antialiasing."""

    mode: Mode = "short"
    """What `size` is: short or long, that side, keeping the aspect; skew, both sides; crop, both sides of the center of
    an image whose short side is 8/7 of it."""
    size: int = 288
    """Pixels."""
    mean: Triple = IMAGENET_MEAN
    """Subtracted from RGB in [0, 1]."""
    std: Triple = IMAGENET_STD
    """Divides it after that."""
    exif: bool = False
    """Turn images upright as their EXIF orientation says; the official code ignores it."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))  # as in the name
        if self.mode not in get_args(Mode):
            raise ValueError(f"the mode of a preset is {self.mode}; choose one of {', '.join(get_args(Mode))}")
        if not 32 <= self.size <= 4096:
            raise ValueError(f"the size of a preset is {self.size}; it must be 32 to 4096 pixels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"the mean {self.mean} or the std {self.std} of a preset is no number to normalize by")

    @property
    def name(self) -> str:
        """A name of PRESETS, or one that says all; two presets are the same if and only if their names are."""
        upright = replace(self, exif=False)
        name = next((name for name, known in PRESETS.items() if known == upright), None)
        if name is None:
            name = f"{self.mode}_{self.size}"
            if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
                name += "_mean_{}_{}_{}".format(*self.mean) + "_std_{}_{}_{}".format(*self.std)
        return name + ("_exif" if self.exif else "")

    def parameters(self) -> dict[str, Any]:
        """As a manifest records it."""
        return {"name": self.name} | asdict(self)

    @property
    def ragged(self) -> bool:
        """Whether images keep their aspect, so that they come out in different sizes."""
        return self.mode in ("short", "long")

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """The size to resize to, (width, height); `crop` cuts afterwards.

        As torchvision's Resize rounds it (short, crop) and the official ResizeLongEdge (long).

        Raises:
            ValueError: the aspect is beyond 1:32, for presets that keep it.
        """
        if self.mode == "skew":
            return self.size, self.size
        short, long = sorted((width, height))
        if long > LONGEST_ASPECT * short:
            raise ValueError(f"{width} x {height} pixels: presets that keep the aspect end at 1:{LONGEST_ASPECT}")
        if self.mode == "long":
            short, long = int(self.size / long * short + 0.5), self.size
        else:
            size = self.size * 8 // 7 if self.mode == "crop" else self.size
            short, long = size, int(size * long / short)
        return (short, long) if width <= height else (long, short)

    def canvases(self) -> list[tuple[int, int]]:
        """(height, width) of the arrays that images are laid into, height <= width, from the smallest to the largest.

        An image that is higher than wide is laid on its side; see `models.transpose`.
        """
        if not self.ragged:
            return [(self.size, self.size)]
        if self.mode == "short":
            return sorted({(self.size, _round_up(int(self.size * long / short))) for long, short in _ASPECTS})
        heights = {min(_round_up(int(self.size / long * short + 0.5)), self.size) for long, short in _ASPECTS}
        return [(height, self.size) for height in sorted(heights)]


def _round_up(side: int) -> int:
    """To a multiple of 8: photographs are a few pixels more or less than their aspect says."""
    return -(-side // 8) * 8


PRESETS = {
    "small_288": Preset("short", 288),
    "skew_320": Preset("skew", 320),
    "long_800": Preset("long", 800),
    "dcr_224": Preset("crop", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
PresetName = Literal["small_288", "skew_320", "long_800", "dcr_224", "custom"]
CUSTOM = Preset()


def choose(name: PresetName, custom: Preset = CUSTOM) -> Preset:
    """A preset by its name, or the one that is given for the name custom.

    Raises:
        ValueError: a preset of one's own is given, and another one named.
    """
    if name == "custom":
        return custom
    if custom != CUSTOM:
        raise ValueError(f"the preset is {name}: options of a preset of one's own go with the preset custom")
    return PRESETS[name]
