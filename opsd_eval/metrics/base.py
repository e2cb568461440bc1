"""What a metric is: a number per problem, NaN where undefined, with a declared direction.

A module that defines metrics ends with ``METRICS = (Metric(...), ...)`` (and ``PAIR_METRICS``, ``CORPUS_METRICS``,
``FAMILIES`` where it has them); ``opsd_eval/metrics/__init__.py`` lists the modules.

Rules that the contract test holds every metric to: a float, NaN on empty input, the same value for any order of
the draws, deterministic, inputs unmutated, and a sample that nobody graded is not counted as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from opsd_eval.records import Problem, Sample

Better = Literal["higher", "lower", "neither"]
NAN = math.nan
T = TypeVar("T")


def always(problem: Problem) -> bool:
    """Applies to every problem."""
    return True


@dataclass(frozen=True)
class Metric:
    """One number per problem.

    ``needs`` names what must exist beyond text and grades: ``"embeddings"`` (an encoder), ``"probes"``
    (``problem.metadata["probes"]`` then holds the problem's rows of ``probes.jsonl``). ``chance(problem, n)`` is the
    value that guessing would give, ``applies`` says for which problems the metric is defined (elsewhere it is NaN).
    Metrics with ``default=False`` are measured on request; with ``equal_n=True`` the value depends on the number of
    draws, and only sets with equally many are compared.
    """

    name: str
    compute: Callable[[Problem, Sequence[Sample]], float]
    better: Better
    needs: tuple[str, ...] = ()
    chance: Callable[[Problem, int], float] | None = None
    applies: Callable[[Problem], bool] = always
    default: bool = True
    equal_n: bool = False

    def __call__(self, problem: Problem, samples: Sequence[Sample]) -> float:
        """The value for one problem; NaN without samples or where the metric does not apply."""
        if not samples or not self.applies(problem):
            return NAN
        return float(self.compute(problem, samples))


@dataclass(frozen=True)
class MetricFamily:
    """Metrics that differ in a number of draws k: ``at(k)`` is one of them, ``ks(n)`` those computed for n draws.

    With ``default=False`` they are measured on request.
    """

    name: str
    at: Callable[[int], Metric]
    ks: Callable[[int], Sequence[int]]
    default: bool = True


@dataclass(frozen=True)
class PairMetric:
    """One number per problem about two models: ``compute(problem, base samples, other samples)``.

    ``null`` gives the value expected of two equal models; ``None`` where that is not known.
    """

    name: str
    compute: Callable[[Problem, Sequence[Sample], Sequence[Sample]], float]
    better: Better
    default: bool = True
    null: Callable[[Problem, Sequence[Sample], Sequence[Sample]], float] | None = None

    def __call__(self, problem: Problem, base: Sequence[Sample], other: Sequence[Sample]) -> float:
        """The value for one problem; NaN when either side has no samples."""
        return float(self.compute(problem, base, other)) if base and other else NAN


@dataclass(frozen=True)
class SetPairMetric:
    """One number about two models on a whole set: ``compute(rows)``, a row (n_base, c_base, n_other, c_other)."""

    name: str
    compute: Callable[[Any], float]
    better: Better
    default: bool = True


@dataclass(frozen=True)
class CorpusMetric:
    """One number for a whole sample set.

    Its interval is over problems: of the mean of ``by_problem`` where the number is such a mean (a problem's value may
    depend on the other problems), by bootstrap over problems otherwise. ``chance(n)`` is its value under guessing
    with n problems.
    """

    name: str
    compute: Callable[[Sequence[Problem], Sequence[Sequence[Sample]]], float]
    better: Better
    default: bool = True
    by_problem: Callable[[Sequence[Problem], Sequence[Sequence[Sample]]], list[float]] | None = None
    chance: Callable[[int], float] | None = None


def mean_or_nan(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN when there are none."""
    kept = [value for value in values if value == value]
    return math.fsum(kept) / len(kept) if kept else NAN


class PerText:
    """A function of one text, remembered for the texts seen last, so that metrics share an analysis.

    Holds at most ``max_chars`` characters of texts (one longer text is held alone), so memory stays flat.
    """

    def __init__(self, function: Callable[[str], Any], max_chars: int = 40_000_000) -> None:
        self.function = function
        self.max_chars = max_chars
        self.held: dict[str, Any] = {}
        self.chars = 0
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        _CACHES.append(self)

    def __call__(self, text: str) -> Any:
        """The function's value for this text."""
        try:
            return self.held[text]
        except KeyError:
            pass
        value = self.function(text)
        if self.chars + len(text) > self.max_chars:
            self.clear()
        self.held[text] = value
        self.chars += len(text)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self.held.clear()
        self.chars = 0


_CACHES: list[PerText] = []


def per_text(function: Callable[[str], T]) -> Callable[[str], T]:
    """Make an expensive function of one text remember its latest results (bounded; see :class:`PerText`)."""
    return PerText(function)


def forget_texts() -> None:
    """Drop every remembered per-text analysis."""
    for cache in _CACHES:
        cache.clear()
