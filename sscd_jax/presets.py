"""Presets: how images are resized and normalized for inference, in validation, embedding, exports and evaluation."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Mode = Literal["short", "long", "skew", "crop"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

LONGEST_ASPECT = 32
# Aspect ratios (long side, short side) of the canvases: the usual ones of photographs, then powers of 2.
_ASPECTS = ((1, 1), (4, 3), (3, 2), (16, 9), (9, 4), (3, 1), (4, 1), (8, 1), (16, 1), (LONGEST_ASPECT, 1))


@dataclass(frozen=True)
class Preset:
    """How an image is resized and normalized before the network sees it.

    Images are resized by Pillow, bilinear with antialiasing, as torchvision resizes PIL images.
    """

    mode: Mode = "short"
    """What is resized. short and long resize that side of the image to `size`, and keep the aspect ratio.
    skew resizes both sides to `size`.
    crop resizes the short side to 8/7 of `size`, and takes the square of side `size` in the center."""
    size: int = 288
    """Number of pixels, from 32 to 4096, of the side or sides that `mode` resizes or crops."""
    mean: Triple = IMAGENET_MEAN
    """Mean of R, G and B, which is subtracted from pixels in [0, 1]."""
    std: Triple = IMAGENET_STD
    """Standard deviation of R, G and B, by which pixels are divided after the mean is subtracted."""
    exif: bool = False
    """Rotate images upright by their EXIF orientation. The official code ignores the orientation."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(
                self, name, tuple(map(float, getattr(self, name)))
            )  # so that equal presets have equal names
        if self.mode not in get_args(Mode):
            raise ValueError(f"the mode of a preset is {self.mode}; choose one of {', '.join(get_args(Mode))}")
        if not 32 <= self.size <= 4096:
            raise ValueError(f"the size of a preset is {self.size}; it must be 32 to 4096 pixels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(
                f"the mean {self.mean} or the std {self.std} of a preset is not finite, or a std is not positive"
            )

    @property
    def name(self) -> str:
        """The name in PRESETS, or one made of all fields; presets are equal if and only if their names are."""
        upright = replace(self, exif=False)
        name = next((name for name, known in PRESETS.items() if known == upright), None)
        if name is None:
            name = f"{self.mode}_{self.size}"
            if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
                name += "_mean_{}_{}_{}".format(*self.mean) + "_std_{}_{}_{}".format(*self.std)
        return name + ("_exif" if self.exif else "")

    def parameters(self) -> dict[str, Any]:
        """Returns the name and all fields, as a manifest records them."""
        return {"name": self.name} | asdict(self)

    @property
    def ragged(self) -> bool:
        """Whether images keep their aspect, so that they come out in different sizes."""
        return self.mode in ("short", "long")

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Returns the (width, height) to which an image of this width and height is resized, before any crop.

        Sizes are rounded as by torchvision's Resize for "short" and "crop", and as by the official ResizeLongEdge for
        "long".

        Raises:
            ValueError: the preset keeps the aspect, and the aspect is beyond 1:32.
        """
        if self.mode == "skew":
            return self.size, self.size
        short, long = sorted((width, height))
        if long > LONGEST_ASPECT * short:
            raise ValueError(f"{width} x {height} pixels: presets that keep the aspect take up to 1:{LONGEST_ASPECT}")
        if self.mode == "long":
            short, long = int(self.size / long * short + 0.5), self.size
        else:
            size = self.size * 8 // 7 if self.mode == "crop" else self.size
            short, long = size, int(size * long / short)
        return (short, long) if width <= height else (long, short)

    def canvases(self) -> list[tuple[int, int]]:
        """Returns the sizes of the arrays that images are padded to, (height, width), from the smallest to the largest.

        There are only a few, because a program is compiled for each. The height is at most the width: an image that is
        taller than wide is transposed; see `models.transpose`.
        """
        if not self.ragged:
            return [(self.size, self.size)]
        if self.mode == "short":
            return sorted({(self.size, _round_up(int(self.size * long / short))) for long, short in _ASPECTS})
        heights = {min(_round_up(int(self.size / long * short + 0.5)), self.size) for long, short in _ASPECTS}
        return [(height, self.size) for height in sorted(heights)]


def _round_up(side: int) -> int:
    """Rounds up to a multiple of 8, as photographs are a few pixels wider or narrower than their nominal aspect."""
    return -(-side // 8) * 8


PRESETS = {
    "small_288": Preset("short", 288),
    "skew_320": Preset("skew", 320),
    "long_800": Preset("long", 800),
    "dcr_224": Preset("crop", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
PresetName = Literal["small_288", "skew_320", "long_800", "dcr_224", "custom"]
CUSTOM = Preset()


def choose(name: PresetName | None, custom: Preset = CUSTOM, *, default: Preset | None = None) -> Preset:
    """Returns the preset of a name, or `custom` for the name "custom".

    Args:
        name: the name; None for `default`.
        custom: the preset of the name "custom".
        default: the preset that the network is for; None, where it is not known, for small_288.

    Raises:
        ValueError: `custom` is given, and the name is another one.
    """
    if name == "custom":
        return custom
    if custom != CUSTOM:
        raise ValueError(f"--custom.* requires --preset custom, and the preset is {name or 'that of the network'}")
    if name is None:
        return default or PRESETS["small_288"]
    return PRESETS[name]
