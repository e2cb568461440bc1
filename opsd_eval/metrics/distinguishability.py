"""Template collapse: can one tell from a completion which problem it answers?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from opsd_eval.metrics.base import NAN, CorpusMetric
from opsd_eval.metrics.subsets import eligible
from opsd_eval.records import Problem, Sample

MAX_PROBLEMS = 200
MAX_DRAWS = 8
MAX_CHARS = 20_000
_WORD = re.compile(r"\w+")


def distinguishability_by_problem(problems: Sequence[Problem], groups: Sequence[Sequence[Sample]]) -> list[float]:
    """Per problem, the share of its draws that are nearest to their own problem's other draws; NaN below two draws."""
    chosen = chosen_problems(len(problems))
    masked = [_masked(problems[i], groups[i]) for i in chosen]
    kept = [(i, texts) for i, texts in zip(chosen, masked, strict=True) if len(texts) >= 2]
    values = [NAN] * len(problems)
    if len(kept) < 2:
        return values
    for (i, _), share in zip(kept, _retrieval([texts for _, texts in kept]), strict=True):
        values[i] = share
    return values


def chosen_problems(n: int) -> list[int]:
    """Numbers of the problems read: all of them up to 200, else 200 evenly spaced."""
    if n <= MAX_PROBLEMS:
        return list(range(n))
    return [round(i * (n - 1) / (MAX_PROBLEMS - 1)) for i in range(MAX_PROBLEMS)]


def distinguishability(problems: Sequence[Problem], groups: Sequence[Sequence[Sample]]) -> float:
    """Leave-one-out retrieval: the share of completions whose nearest problem centroid is their own problem's.

    Equation: mean over problems of mean over draws of 1[own problem = argmax_q cos(x, centroid of q without x)], x the
    TF-IDF vector of the completion without the words of its own question; ties count as fractions; loops and
    off-language draws are left out. At most 200 evenly spaced problems and their first 8 draws are read. Higher is
    better: a model that answers everything with one template falls towards chance, 1 / (number of problems).
    Failure modes: depends on how alike the problems are, so compare models on the same problems; numbers computed
    from the question make completions easy to tell apart. Source: template collapse, arXiv 2604.06268.
    Differs: retrieval accuracy with masked question words instead of mutual information.
    """
    values = [value for value in distinguishability_by_problem(problems, groups) if value == value]
    return math.fsum(values) / len(values) if values else NAN


def _masked(problem: Problem, samples: Sequence[Sample]) -> list[str]:
    """The first draws without the question's words."""
    asked = set(_WORD.findall(problem.question.lower()))
    texts = []
    for sample in eligible(problem, samples, correct_only=False)[:MAX_DRAWS]:
        words = [word for word in _WORD.findall((sample.text or "")[:MAX_CHARS].lower()) if word not in asked]
        if words:
            texts.append(" ".join(words))
    return texts


def _retrieval(groups: Sequence[Sequence[str]]) -> list[float]:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text for texts in groups for text in texts]
    owners = np.array([owner for owner, texts in enumerate(groups) for _ in texts])
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+", lowercase=False)
    rows: Any = vectorizer.fit_transform(texts)
    membership = csr_matrix((np.ones(len(texts)), (owners, np.arange(len(texts)))))
    sums = membership @ rows
    scores = np.asarray((rows @ sums.T).todense())
    norms = np.sqrt(np.asarray(sums.multiply(sums).sum(axis=1)).ravel())
    own = scores[np.arange(len(texts)), owners]
    cosines = scores / np.where(norms > 0, norms, 1.0)
    # own centroid without the text itself: sum - x, and x has length 1
    without = np.sqrt(np.maximum(norms[owners] ** 2 - 2 * own + 1.0, 1e-12))
    cosines[np.arange(len(texts)), owners] = (own - 1.0) / without
    best = cosines.max(axis=1, keepdims=True)
    is_best = cosines >= best - 1e-9
    hits = is_best[np.arange(len(texts)), owners] / is_best.sum(axis=1)
    return [float(hits[owners == owner].mean()) for owner in range(len(groups))]


CORPUS_METRICS = (
    CorpusMetric(
        "distinguishability", distinguishability, "higher", by_problem=distinguishability_by_problem,
        chance=lambda n: 1.0 / n if n else NAN,
    ),
)
