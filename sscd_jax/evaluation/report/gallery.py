"""The galleries of the report: queries beside their best matches, sorted by what came of them."""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageOps

from sscd_jax.data.images import open_image
from sscd_jax.datasets.annotations import Edited

FOUND = "found"
TOO_LOW = "missed: score too low"
WRONG_FIRST = "missed: another image first"
FALSE_ALARM = "false alarm"
REJECTED = "rightly rejected"
GOOD = (FOUND, REJECTED)

Load = Callable[[], bytes]  # reads an encoded image
Ranking = Mapping[str, Sequence[tuple[str, float]]]

_THUMBNAIL = 144  # about twice the size on the page, for dense screens
_CARDS = 8
_MATCHES = 3


@dataclass(frozen=True)
class Match:
    """A reference beside a query: its rank (None: beyond the predictions), score, whether it is right."""

    reference: str
    rank: int | None
    score: float
    right: bool
    image: str


@dataclass(frozen=True)
class Card:
    """A query with its best matches; the last match may be the one that should have been first."""

    query: str
    edits: Sequence[str]
    outcome: str
    good: bool
    image: str
    matches: Sequence[Match]


@dataclass(frozen=True)
class Gallery:
    """Cards of one kind, and how many queries of the kind there are."""

    title: str
    text: str
    cards: Sequence[Card]
    total: int


def ranking(query_ids: np.ndarray, reference_ids: np.ndarray, scores: np.ndarray) -> Ranking:
    """Predictions [K], in any order, as query id -> (reference id, score), best first."""
    ranked: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for i in np.argsort(-scores, kind="stable"):
        ranked[str(query_ids[i])].append((str(reference_ids[i]), float(scores[i])))
    return ranked


def outcomes(
    ranked: Ranking, query_ids: Sequence[str], ground_truth: Sequence[tuple[str, str]], threshold: float | None
) -> dict[str, str]:
    """What came of each query: one of the five constants above.

    A query is answered with its first match if the score reaches the threshold (None: nothing does).
    """
    truth = set(ground_truth)
    copies = {query for query, _ in ground_truth}
    # Also where there is no prediction.
    result = {query: WRONG_FIRST if query in copies else REJECTED for query in query_ids}
    for query, matches in ranked.items():
        reference, score = matches[0]
        answered = threshold is not None and score >= threshold
        if query not in copies:
            result[query] = FALSE_ALARM if answered else REJECTED
        elif (query, reference) in truth:
            result[query] = FOUND if answered else TOO_LOW
    return result


def galleries(
    ranked: Ranking,
    ground_truth: Sequence[tuple[str, str]],
    copy_similarities: np.ndarray,
    outcome: Mapping[str, str],
    query_images: Mapping[str, Load],
    reference_images: Mapping[str, Load],
    edits: Mapping[str, Edited],
) -> list[Gallery]:
    """The galleries that are not empty, with at most `_CARDS` cards each.

    Args:
      copy_similarities: [P], of each pair of the ground truth.
    """
    similarity = dict(zip(ground_truth, copy_similarities.tolist(), strict=True))
    expected = defaultdict(list)
    for query, reference in ground_truth:
        expected[query].append(reference)

    def match(query: str, reference: str, rank: int | None, score: float) -> Match:
        right = reference in expected[query]
        return Match(reference, rank, score, right, thumbnail(reference_images.get(reference)))

    def card(query: str) -> Card:
        predicted = ranked[query]
        shown = [match(query, r, i, s) for i, (r, s) in enumerate(predicted[:_MATCHES], 1)]
        if expected[query] and not any(m.right for m in shown):
            ranks = {r: i for i, (r, _) in enumerate(predicted, 1)}
            reference = expected[query][0]
            score = similarity[query, reference]
            shown.append(match(query, reference, ranks.get(reference), score))
        image = thumbnail(query_images.get(query))
        good = outcome[query] in GOOD
        return Card(query, edits[query].kinds if query in edits else (), outcome[query], good, image, shown)

    kinds = (
        ("Copies found", "From the most to the least certain.", (FOUND,), True),
        (
            "Copies missed for a low score",
            "The right image comes first, but below the threshold.",
            (TOO_LOW,),
            True,
        ),
        (
            "Copies missed for another image",
            "The most certain mistakes first. A right one beyond the best three stands apart.",
            (WRONG_FIRST,),
            False,
        ),
        (
            "Queries that copy nothing",
            "The ones nearest to a false alarm first.",
            (FALSE_ALARM, REJECTED),
            False,
        ),
    )
    found = []
    for title, text, wanted, spread in kinds:
        queries = sorted(
            (query for query in ranked if outcome[query] in wanted),
            key=lambda query: (-ranked[query][0][1], query),
        )
        picked = queries[:_CARDS]
        if spread and len(queries) > _CARDS:
            picked = [queries[i] for i in np.linspace(0, len(queries) - 1, _CARDS).astype(int)]
        if picked:
            found.append(Gallery(title, text, [card(query) for query in picked], len(queries)))
    return found


def counts(outcome: Mapping[str, str]) -> list[tuple[str, list[tuple[str, int, bool]]]]:
    """For copies and for the other queries: (outcome, how many queries, whether it is good)."""
    number = Counter(outcome.values())
    kinds = {"are copies": (FOUND, TOO_LOW, WRONG_FIRST), "copy nothing": (REJECTED, FALSE_ALARM)}
    return [(kind, [(name, number[name], name in GOOD) for name in names]) for kind, names in kinds.items()]


def thumbnail(load: Load | None) -> str:
    """A small JPEG of the image as a data URI; empty where there is none that can be read."""
    if load is None:
        return ""
    try:
        small = ImageOps.contain(open_image(load()), (_THUMBNAIL, _THUMBNAIL))
    except (OSError, ValueError):
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
