"""Generalization: what training changed in against out of distribution, and whether the test was kept apart.

A gap is a difference in differences: (in distribution, after − before) − (out of distribution, after − before). The
plain difference between two test sets only says that one of them is harder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.metrics.base import NAN
from opsd_eval.names import unknown_name
from opsd_eval.records import Problem, read_problems, sha256_text

if TYPE_CHECKING:
    import pandas as pd

    from opsd_eval.stats import Difference

NEAR_COPY = 0.8
NGRAM = 8
LEAKS = ("same_id", "same_text", "same_words", "near_copy")


# --- gaps -------------------------------------------------------------------------------------------------


def generalization_gap(
    in_sets: tuple[Path | str, Path | str],
    out_sets: tuple[Path | str, Path | str],
    *,
    metric: str,
    level: float = 0.95,
) -> Difference:
    """Gap of one metric between two measured pairs of sets, each (before, after) over the same problems.

    Positive: training changed the metric more in distribution. Clusters above the problem are used where declared.
    """
    from opsd_eval.measures import read_measures
    from opsd_eval.stats import difference_in_differences

    sides = [read_measures(path) for path in (in_sets[1], in_sets[0], out_sets[1], out_sets[0])]
    for side, path in zip(sides, (in_sets[1], in_sets[0], out_sets[1], out_sets[0]), strict=True):
        if metric not in side.values:
            raise ValueError(f"{path}: {unknown_name('measured metric', metric, list(side.values))}")
    clusters = {pid: c for side in sides for pid, c in zip(side.problem_ids, side.clusters, strict=True)}
    labels = clusters if any(c is not None for c in clusters.values()) else None
    return difference_in_differences(*(side.scores(metric) for side in sides), clusters=labels, level=level)


def gaps_by_axis(
    before: Path | str, after: Path | str, *, axis: str, trained: Iterable[Any], metrics: Sequence[str],
    level: float = 0.95,
) -> pd.DataFrame:
    """One row a metric and untrained value of a declared axis: both changes and their gap.

    ``trained`` lists the axis values that training saw (compared as text); every other value is one way out of
    distribution. Problems that do not declare the axis are left out, and counted in ``n_undeclared``.
    """
    import pandas as pd

    from opsd_eval.measures import read_measures
    from opsd_eval.stats import difference_in_differences

    problems = read_problems(before)
    values = {pid: str(p.axes[axis]) for pid, p in problems.items() if axis in p.axes}
    known = sorted(set(values.values()))
    inside = {str(value) for value in trained}
    if not values:
        raise ValueError(f"{before}: no problem declares the axis {axis!r}; declared are {_axes(problems.values())}")
    if not inside & set(known):
        raise ValueError(f"axis {axis!r} has the values {known}; none of them is among the trained {sorted(inside)}")
    first, last = read_measures(before), read_measures(after)
    clusters = {pid: p.cluster for pid, p in problems.items()}
    labels = clusters if any(clusters.values()) else None
    rows = []
    for metric in metrics:
        old, new = first.scores(metric), last.scores(metric)
        inner = [pid for pid, value in values.items() if value in inside]
        for value in known:
            if value in inside:
                continue
            outer = [pid for pid, v in values.items() if v == value]
            gap = difference_in_differences(
                *({pid: table[pid] for pid in ids} for ids in (inner, outer) for table in (new, old)),
                clusters=labels, level=level,
            )  # fmt: skip
            rows.append({
                "metric": metric, "axis": axis, "trained": ",".join(sorted(inside)), "value": value,
                "change_in": _change(old, new, inner), "change_out": _change(old, new, outer), "gap": gap.value,
                "low": gap.low, "high": gap.high, "p_value": gap.p_value, "mde": gap.mde,
                "n_problems": gap.n_problems, "n_dropped": gap.n_dropped,
                "n_undeclared": len(problems) - len(values), "method": gap.method,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _change(old: Mapping[str, float], new: Mapping[str, float], ids: Sequence[str]) -> float:
    gaps = [new[pid] - old[pid] for pid in ids if new[pid] == new[pid] and old[pid] == old[pid]]
    return sum(gaps) / len(gaps) if gaps else NAN


def _axes(problems: Iterable[Problem]) -> list[str]:
    return sorted({axis for problem in problems for axis in problem.axes})


# --- leakage ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leak:
    """A test problem that training may have seen: how it was recognised, in which training problem, how alike."""

    problem_id: str
    train_id: str
    kind: str
    overlap: float


_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def find_leaks(train: Iterable[Problem], test: Iterable[Problem]) -> list[Leak]:
    """Test problems found in training data, the strongest evidence for each.

    ``same_id``; ``same_text``: identical question; ``same_words``: identical up to case, spaces and punctuation;
    ``near_copy``: the same numbers and at least 80 % of its 8-word sequences in one training question. Two problems of
    one template with different numbers are not a leak. Questions below 8 words are compared whole. Linear in the text.
    """
    index = _TrainIndex(train)
    return [leak for problem in test if (leak := index.leak(problem)) is not None]


def guard_against_leaks(train: Iterable[Problem], test: Iterable[Problem]) -> None:
    """Raise ``ValueError`` naming test problems that are in the training data; return when there is none."""
    leaks = find_leaks(train, test)
    if leaks:
        shown = "; ".join(f"{leak.problem_id} ({leak.kind} as {leak.train_id})" for leak in leaks[:5])
        raise ValueError(
            f"{len(leaks)} test problems are in the training data: {shown}. Drop them from one of the two, or draw the "
            "splits by a hash of the problem so that no seed can mix them"
        )


class _TrainIndex:
    """Hashes of training questions: whole, by words, and by 8-word sequences."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.ids: set[str] = set()
        self.texts: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.grams: dict[int, list[int]] = {}
        self.names: list[str] = []
        self.numbers: list[tuple[str, ...]] = []
        for problem in problems:
            words = _WORD.findall(problem.question.lower())
            self.ids.add(problem.problem_id)
            self.texts.setdefault(sha256_text(problem.question), problem.problem_id)
            self.words.setdefault(sha256_text(" ".join(words)), problem.problem_id)
            number = len(self.names)
            self.names.append(problem.problem_id)
            self.numbers.append(tuple(sorted(_NUMBER.findall(problem.question))))
            for gram in set(_grams(words)):
                owners = self.grams.setdefault(gram, [])
                if len(owners) < 50:  # a sequence that fifty questions share is template, not evidence
                    owners.append(number)

    def leak(self, problem: Problem) -> Leak | None:
        """The strongest evidence that a test problem is in the training data."""
        words = _WORD.findall(problem.question.lower())
        if problem.problem_id in self.ids:
            return Leak(problem.problem_id, problem.problem_id, "same_id", 1.0)
        for kind, table, text in (("same_text", self.texts, problem.question), ("same_words", self.words, None)):
            key = sha256_text(" ".join(words) if text is None else text)
            if key in table:
                return Leak(problem.problem_id, table[key], kind, 1.0)
        return self._near_copy(problem, words)

    def _near_copy(self, problem: Problem, words: Sequence[str]) -> Leak | None:
        grams = set(_grams(words))
        if not grams:
            return None
        hits: dict[int, int] = {}
        for gram in grams:
            for owner in self.grams.get(gram, ()):
                hits[owner] = hits.get(owner, 0) + 1
        numbers = tuple(sorted(_NUMBER.findall(problem.question)))
        found = [(n / len(grams), -o) for o, n in hits.items() if self.numbers[o] == numbers]
        share, owner = max(found, default=(0.0, 0))
        return Leak(problem.problem_id, self.names[-owner], "near_copy", share) if share >= NEAR_COPY else None


def _grams(words: Sequence[str]) -> list[int]:
    return [hash(tuple(words[i : i + NGRAM])) for i in range(len(words) - NGRAM + 1)]
