"""Diversity of answers and words within a problem, without a model (for embeddings see embeddings.py)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from opsd_eval.answers import canonical_answer
from opsd_eval.metrics.base import NAN, Metric, per_text
from opsd_eval.metrics.subsets import class_counts, eligible, expected_classes, expected_entropy, subset_size
from opsd_eval.records import Problem, Sample

BLEU_ORDERS = 4
BLEU_WORDS = 200
_RIGHT = object()


def _answers(problem: Problem, samples: Sequence[Sample], correct_only: bool) -> tuple[int, ...]:
    """Sizes of the answer classes; right answers are one class, draws without an answer are left out."""
    kept = eligible(problem, samples, correct_only=correct_only)
    return class_counts([
        _RIGHT if sample.correct else canonical_answer(sample.answer_strict)
        for sample in kept
        if sample.answer_strict is not None
    ])


def distinct_answers(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Expected number of distinct final answers among m draws, m half of the draws.

    Equation: Σ_a 1 − C(n − n_a, m) / C(n, m) over canonical answers a; draws without an answer, loops and off-language
    draws are left out; NaN when fewer than m remain. Neither direction is better: exploration and confusion both
    raise it (among right draws it is 1 by definition). Failure modes: two forms of one value count as two where
    telling them apart needs algebra. Source: rarefaction, Hurlbert 1971. Differs: no.
    """
    return expected_classes(_answers(problem, samples, correct_only), subset_size(samples))


def answer_entropy(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Expected entropy (nats) of the final answers among m draws, m half of the draws.

    Equation: E over m-subsets of −Σ_a p_a ln p_a, exactly; 0 to ln m. Neither direction is better. Edge cases and
    failure modes as for distinct_answers. Source: semantic entropy with exact classes, arXiv 2302.09664.
    Differs: expectation over subsets, so that sets with different survivors compare.
    """
    return expected_entropy(_answers(problem, samples, correct_only), subset_size(samples))


@per_text
def _ngrams(text: str) -> tuple[int, tuple[frozenset[tuple[tuple[str, ...], int]], ...]]:
    """(number of words, per order the n-grams, each with its occurrence number, so that a set is a multiset)."""
    words = text.lower().split()[:BLEU_WORDS]
    orders = []
    for order in range(1, BLEU_ORDERS + 1):
        seen: Counter[tuple[str, ...]] = Counter()
        grams = set()
        for gram in zip(*(words[i:] for i in range(order)), strict=False):
            grams.add((gram, seen[gram]))
            seen[gram] += 1
        orders.append(frozenset(grams))
    return len(words), tuple(orders)


def bleu(candidate: str, reference: str) -> float:
    """BLEU-4 of two texts' first 200 words: clipped precisions, brevity penalty, one added from order 2."""
    (length, mine), (reference_length, theirs) = _ngrams(candidate), _ngrams(reference)
    if not length or not reference_length:
        return NAN
    total = 0.0
    for order, (a, b) in enumerate(zip(mine, theirs, strict=True), start=1):
        added = 0 if order == 1 else 1
        matches, possible = len(a & b) + added, len(a) + added
        if not matches:
            return 0.0
        total += math.log(matches / possible)
    penalty = min(0.0, 1.0 - reference_length / length)
    return math.exp(total / BLEU_ORDERS + penalty)


def self_bleu(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Mean BLEU-4 between two draws of a problem: how alike their wording is.

    Equation: mean over ordered pairs of BLEU(first 200 words of i | of j). Being a mean over pairs it does not depend
    on the number of draws; NaN when fewer than m = half of the draws remain. Lower is more diverse; neither direction
    is better. Failure modes: longer shared openings raise it, hence the fixed window. Source: arXiv 1802.01886.
    Differs: pairs instead of one against all others; add-one smoothing from order 2.
    """
    texts = [sample.text or "" for sample in eligible(problem, samples, correct_only=correct_only)]
    if len(texts) < subset_size(samples):
        return NAN
    values = [bleu(a, b) for i, a in enumerate(texts) for j, b in enumerate(texts) if i != j]
    kept = sorted(value for value in values if value == value)
    return math.fsum(kept) / len(kept) if kept else NAN


def correct_only(compute: Callable[..., float]) -> Callable[[Problem, Sequence[Sample]], float]:
    """The same metric over right draws only."""

    def among_correct(problem: Problem, samples: Sequence[Sample]) -> float:
        return compute(problem, samples, True)

    first, _, rest = (compute.__doc__ or "").partition("\n")
    among_correct.__doc__ = f"{first.rstrip('.')} (right draws only).\n{rest}"
    return among_correct


def both(name: str, compute: Callable[..., float], **values: object) -> tuple[Metric, Metric]:
    """The metric over all eligible draws, and over the right ones among them."""
    return (
        Metric(name, compute, "neither", equal_n=True, **values),  # type: ignore[arg-type]
        Metric(f"{name}_correct", correct_only(compute), "neither", equal_n=True, **values),  # type: ignore[arg-type]
    )


METRICS = (
    *both("distinct_answers", distinct_answers),
    *both("answer_entropy", answer_entropy),
    *both("self_bleu", self_bleu, default=False),
)
