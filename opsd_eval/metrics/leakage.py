"""Was a test problem in the training data? Found by identity, by words and by long shared sequences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from opsd_eval.records import Problem, sha256_text

NEAR_COPY = 0.8
NGRAM = 8
LEAKS = ("same_id", "same_text", "same_words", "near_copy")
TRAINED, HELD_OUT = "trained", "held_out"


@dataclass(frozen=True)
class Leak:
    """A test problem that training may have seen: how it was recognised, in which training problem, how alike."""

    problem_id: str
    train_id: str
    kind: str
    overlap: float


_WORD = re.compile(r"\w+|[-+*/^=<>\xd7\xf7\u2212]")  # signs count: 17 + 5 is not 17 - 5
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


def exposure(train: Iterable[Problem], test: Iterable[Problem]) -> dict[str, str]:
    """Problem id → ``trained`` where :func:`find_leaks` finds it in the training data, else ``held_out``."""
    test = list(test)
    seen = {leak.problem_id for leak in find_leaks(train, test)}
    return {problem.problem_id: TRAINED if problem.problem_id in seen else HELD_OUT for problem in test}


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
