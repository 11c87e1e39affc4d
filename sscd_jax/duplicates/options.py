"""How copies are found: thresholds, grouping, and what is kept. Cheap to import, as --help does it."""

from dataclasses import dataclass
from typing import Literal, get_args

THRESHOLD = 0.2  # of the score; scripts/benchmarks/background.py says what it finds
PLAIN_THRESHOLD = 0.75  # of the similarity; on DISC, about 90 % precision for sscd_disc_mixup, as its authors say
MAX_GROUP = 100
KEEP = ("largest", "first", "oldest")
# In what two images are alike: the bytes of their files, their pixels, or their descriptors. "" is no pair.
Kind = Literal["", "bytes", "pixels", "near"]
KINDS: tuple[Kind, ...] = ("", "bytes", "pixels", "near")
Grouping = Literal["leaders", "components"]
ScoreKind = Literal["background", "similarity"]


@dataclass(frozen=True)
class Options:
    """How copies are found; see `sscd-jax dedup --help`."""

    threshold: float | None = None
    score: ScoreKind = "background"
    grouping: Grouping = "leaders"
    max_group: int = MAX_GROUP
    keep: str = "largest"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("score", self.score, get_args(ScoreKind)),
            ("grouping", self.grouping, get_args(Grouping)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it must be {' or '.join(known)}")
        if self.score == "similarity" and self.threshold is not None and self.threshold < -1:
            raise ValueError(f"threshold is {self.threshold}; similarities are from -1 to 1")
        if self.threshold is not None and not -2 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; scores are from -2 to 1, and similarities from -1 to 1")
        if self.max_group < 1:
            raise ValueError(f"max_group is {self.max_group}; it must be positive")

    @property
    def least(self) -> float:
        """The threshold that is used."""
        default = THRESHOLD if self.score == "background" else PLAIN_THRESHOLD
        return default if self.threshold is None else self.threshold
