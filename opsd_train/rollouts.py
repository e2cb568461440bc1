"""On-policy rollouts: which problems a step takes, sampled once as token ids and never tokenised again.

The order of problems is a function of (seed, step), so the position in the data is the step number. Each rollout's
random stream is keyed by (seed, problem, draw), and its draw counts the visits to its problem, so no two rollouts
of a run share a stream, and neither batching nor resuming changes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from opsd_eval.records import Problem

Prompts = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Rollout:
    """One completion of the student and the prompts after which each role scores it."""

    problem_id: str
    draw: int
    completion_ids: tuple[int, ...]
    prompts: Prompts
    finish_reason: str
    text: str
    logp: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Row:
    """One rollout to be sampled."""

    problem: Problem
    draw: int


class Sync(Protocol):
    """Brings an engine's weights to the student's; engines that hold the student's own model need none."""

    def __call__(self, engine: Any, step: int) -> None:
        """Make the engine sample from the student after ``step`` optimiser steps."""


def step_rows(problems: Sequence[Problem], step: int, *, batch_size: int, draws: int, seed: int) -> list[Row]:
    """The rollouts of optimiser step ``step`` (from 0): each epoch is a new permutation, fixed by (seed, epoch)."""
    count, total = batch_size // draws, len(problems)
    rows = []
    for position in range(step * count, (step + 1) * count):
        epoch, at = divmod(position, total)
        problem = problems[int(_order(seed, epoch, total)[at])]
        rows += [Row(problem, epoch * draws + k) for k in range(draws)]
    return rows


def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    key = (seed, epoch, total)
    if key not in _ORDERS:
        _ORDERS.clear() if len(_ORDERS) > 8 else None
        _ORDERS[key] = np.random.default_rng([seed & 0xFFFFFFFF, epoch]).permutation(total)
    return _ORDERS[key]


_ORDERS: dict[tuple[int, int, int], np.ndarray] = {}
