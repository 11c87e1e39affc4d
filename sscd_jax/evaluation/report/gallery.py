"""Chooses the images that a report shows: queries beside their best matches, grouped by outcome."""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ImageOps

from sscd_jax.data.images import open_image
from sscd_jax.datasets.annotations import Edited
from sscd_jax.evaluation.metrics import Predictions, precision_recall, recall_at_precision

FOUND = "found"
TOO_LOW = "missed: score too low"
WRONG_FIRST = "missed: another image first"
FALSE_ALARM = "false alarm"
REJECTED = "correctly rejected"
GOOD = (FOUND, REJECTED)

Load = Callable[[], bytes]  # reads an encoded image
Ranking = Mapping[str, Sequence[tuple[str, float]]]  # query id -> (reference id, score), best first

_THUMBNAIL = 144  # about twice the size on the page, for dense screens
_CARDS = 8
_MATCHES = 3
_EXAMPLES = 4


@dataclass(frozen=True)
class Match:
    """A reference beside a query.

    Attributes:
        reference: its id.
        rank: 1 for the best match; None if it is not among the predictions.
        score: its score.
        verdict: "correct", or "incorrect" if it is ranked above a correct one or is a false alarm; "" for all others,
            which are not presented as answers.
        image: a thumbnail as a data URI, or "".
    """

    reference: str
    rank: int | None
    score: float
    verdict: Literal["correct", "incorrect", ""]
    image: str


@dataclass(frozen=True)
class Card:
    """A query with its best matches; the last match may be the correct one from further down."""

    query: str
    edits: Sequence[str]
    outcome: str
    good: bool
    image: str
    matches: Sequence[Match]


@dataclass(frozen=True)
class Gallery:
    """Cards of one kind, and the number of queries of that kind."""

    title: str
    text: str
    cards: Sequence[Card]
    total: int


def ranking(query_ids: np.ndarray, reference_ids: np.ndarray, scores: np.ndarray) -> Ranking:
    """Groups predictions, [K] in any order, by query."""
    ranked: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for i in np.argsort(-scores, kind="stable"):
        ranked[str(query_ids[i])].append((str(reference_ids[i]), float(scores[i])))
    return ranked


def outcomes(
    ranked: Ranking, query_ids: Sequence[str], ground_truth: Sequence[tuple[str, str]], threshold: float | None
) -> dict[str, str]:
    """Returns the outcome of each query: one of the five constants above.

    A query is answered with its best match if the score reaches the threshold; without a threshold, no query is.
    """
    truth = set(ground_truth)
    copies = {query for query, _ in ground_truth}
    # Queries without a prediction keep this outcome.
    result = {query: WRONG_FIRST if query in copies else REJECTED for query in query_ids}
    for query, matches in ranked.items():
        reference, score = matches[0]
        answered = threshold is not None and score >= threshold
        if query not in copies:
            result[query] = FALSE_ALARM if answered else REJECTED
        elif (query, reference) in truth:
            result[query] = FOUND if answered else TOO_LOW
    return result


def answer_threshold(ranked: Ranking, ground_truth: Sequence[tuple[str, str]], precision: float) -> float | None:
    """Returns the threshold that finds the most copies while a share of at least `precision` of the answers is correct.

    Only the best match of each query counts, because it alone is the answer. None if no threshold has the precision.
    """
    truth = set(ground_truth)
    queries = [query for query in ranked if ranked[query]]
    best = Predictions(
        query=np.arange(len(queries)),
        reference=np.zeros(len(queries), np.int64),
        score=np.array([ranked[query][0][1] for query in queries]),
        is_match=np.array([(query, ranked[query][0][0]) in truth for query in queries], bool),
        positives=np.ones(len(queries), np.int64),
    )
    return recall_at_precision(precision_recall(best), precision)[1]


def galleries(
    ranked: Ranking,
    ground_truth: Sequence[tuple[str, str]],
    copy_similarities: np.ndarray,
    outcome: Mapping[str, str],
    query_images: Mapping[str, Load],
    reference_images: Mapping[str, Load],
    edits: Mapping[str, Edited],
) -> list[Gallery]:
    """Returns the galleries that are not empty, with at most `_CARDS` cards each.

    Args:
        ranked: the predictions.
        ground_truth: pairs (query id, reference id).
        copy_similarities: float [P], the similarity of each pair of the ground truth.
        outcome: the outcome of each query, from `outcomes`.
        query_images, reference_images: by id, the function that reads the encoded image.
        edits: the edits of the queries, if they are known.
    """
    similarity = dict(zip(ground_truth, copy_similarities.tolist(), strict=True))
    expected = _expected(ground_truth)

    def card(query: str) -> Card:
        return _card(query, ranked, expected, similarity, outcome, query_images, reference_images, edits)

    kinds = (
        ("Copies found", "From the most to the least certain.", (FOUND,), True),
        (
            "Copies missed for a low score",
            "The correct image comes first, but below the threshold.",
            (TOO_LOW,),
            True,
        ),
        (
            "Copies missed for another image",
            "The most certain mistakes first. A correct image that is not among the best three stands apart.",
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


def examples(
    ranked: Ranking,
    ground_truth: Sequence[tuple[str, str]],
    outcome: Mapping[str, str],
    query_images: Mapping[str, Load],
    reference_images: Mapping[str, Load],
    edits: Mapping[str, Edited],
) -> list[Card]:
    """Returns up to four queries, each with its best match alone, that show at a glance what was measured.

    They are the most certain and the median copy found, the most certain mistake, and the query that copies nothing
    with the highest score; where there is no such query, others take its place.
    """
    by_score = sorted(ranked, key=lambda query: (-ranked[query][0][1], query))
    of = {name: [query for query in by_score if outcome[query] == name] for name in set(outcome.values())}
    found, missed = of.get(FOUND, []), [q for q in by_score if outcome[q] in (WRONG_FIRST, TOO_LOW)]
    nothing = [q for q in by_score if outcome[q] in (FALSE_ALARM, REJECTED)]
    wanted = [*found[:1], *found[len(found) // 2 :][:1], *missed[:1], *nothing[:1]]
    picked = list(dict.fromkeys([*wanted, *found, *missed, *nothing]))[:_EXAMPLES]
    best = {query: ranked[query][:1] for query in picked}
    expected = _expected(ground_truth)
    return [_card(q, best, expected, {}, outcome, query_images, reference_images, edits) for q in by_score if q in best]


def _expected(ground_truth: Sequence[tuple[str, str]]) -> Mapping[str, list[str]]:
    """Groups the references of the ground truth by query."""
    expected = defaultdict(list)
    for query, reference in ground_truth:
        expected[query].append(reference)
    return expected


def _card(
    query: str,
    ranked: Ranking,
    expected: Mapping[str, list[str]],
    similarity: Mapping[tuple[str, str], float],
    outcome: Mapping[str, str],
    query_images: Mapping[str, Load],
    reference_images: Mapping[str, Load],
    edits: Mapping[str, Edited],
) -> Card:
    """Makes the card of a query; a correct image further down is shown if its similarity is known."""
    predicted = ranked[query]
    copied = expected.get(query, [])
    shown: list[tuple[str, int | None, float]] = []
    shown += [(reference, rank, score) for rank, (reference, score) in enumerate(predicted[:_MATCHES], 1)]
    if copied and not any(reference in copied for reference, _, _ in shown) and (query, copied[0]) in similarity:
        ranks = {reference: rank for rank, (reference, _) in enumerate(predicted, 1)}
        shown.append((copied[0], ranks.get(copied[0]), similarity[query, copied[0]]))
    matches = []
    missing = bool(copied) or outcome[query] == FALSE_ALARM  # whether an incorrect match here is a mistake
    for reference, rank, score in shown:
        verdict: Literal["correct", "incorrect", ""] = "incorrect" if missing else ""
        if reference in copied:
            verdict = "correct"
        missing = missing and verdict != "correct" and bool(copied)
        matches.append(Match(reference, rank, score, verdict, thumbnail(reference_images.get(reference))))
    kinds = edits[query].kinds if query in edits else ()
    image = thumbnail(query_images.get(query))
    return Card(query, kinds, outcome[query], outcome[query] in GOOD, image, matches)


def counts(outcome: Mapping[str, str]) -> list[tuple[str, list[tuple[str, int, bool]]]]:
    """Counts the outcomes of the copies and of the other queries: (outcome, number of queries, whether it is good)."""
    number = Counter(outcome.values())
    kinds = {"are copies": (FOUND, TOO_LOW, WRONG_FIRST), "copy nothing": (REJECTED, FALSE_ALARM)}
    return [(kind, [(name, number[name], name in GOOD) for name in names]) for kind, names in kinds.items()]


def thumbnail(load: Load | None) -> str:
    """Returns a small JPEG of the image as a data URI, or "" if there is none that can be read."""
    if load is None:
        return ""
    try:
        small = ImageOps.contain(open_image(load()), (_THUMBNAIL, _THUMBNAIL))
    except (OSError, ValueError):
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
