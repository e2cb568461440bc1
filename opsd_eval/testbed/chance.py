"""What guessing gives: answers drawn from the answer distribution of the problem's own split."""

from __future__ import annotations

import functools
import math
import random
from collections import Counter

from opsd_eval.records import Problem
from opsd_eval.testbed.chains import Chain
from opsd_eval.testbed.worlds import ALL_WORLDS, SPLITS, sample_canonical, world

_DRAWS = 4000


def answer_chance(problem: Problem) -> float:
    """Probability that one guess is right: a guess copies the answer of a random problem of the same kind.

    In ``search`` a guess picks one of the listed candidates; NaN for a problem of a foreign log that lists none. A
    problem that is not from the testbed is refused.
    """
    family = world(_world_of(problem)).family
    candidates, answer = problem.metadata.get("candidates"), str(problem.answer)
    if isinstance(candidates, list | tuple) and candidates:
        return 1 / len(candidates)
    if family == "search":
        return math.nan
    kind = SPLITS[problem.split][1] if problem.split in SPLITS else None
    return _answers(family, kind).get(int(answer) if answer.isdecimal() and len(answer) < 20 else -1, 0) / _DRAWS


def chance(problem: Problem, k: int) -> float:
    """Pass@k of guessing: 1 - (1 - p)^k with p from :func:`answer_chance`; k = 1 is the accuracy of a guess."""
    return 1 - (1 - answer_chance(problem)) ** k


def is_testbed(problem: Problem) -> bool:
    """Whether the problem comes from a testbed world, by its benchmark's name."""
    return problem.benchmark.startswith("testbed.") and problem.benchmark.split(".")[1] in ALL_WORLDS


def _world_of(problem: Problem) -> str:
    if not is_testbed(problem):
        raise ValueError(f"{problem.problem_id}: chance levels are known for testbed problems only")
    return problem.benchmark.split(".")[1]


@functools.cache
def _answers(family: str, kind: str | None) -> Counter[int]:
    """Answers of ``_DRAWS`` random problems of a kind (``None``: the corpus's mix), from all pools."""
    from opsd_eval.testbed.design import DESIGN

    rng = random.Random(f"chance/{family}/{kind}")
    kinds, weights = list(DESIGN.corpus_kinds), list(DESIGN.corpus_kinds.values())
    found: Counter[int] = Counter()
    for _ in range(_DRAWS):
        item = sample_canonical(rng, family, kind or rng.choices(kinds, weights)[0])
        assert isinstance(item, Chain)
        found[item.answer] += 1
    return found
