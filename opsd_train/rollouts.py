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

from opsd_eval.engines.base import Request, Sampling
from opsd_eval.records import Problem
from opsd_train.config import TrainConfig

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

    def close(self) -> None:
        """Remove what it left behind."""


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
        _ORDERS.clear()
        _ORDERS[key] = np.random.default_rng([seed & 0xFFFFFFFF, epoch]).permutation(total)
    return _ORDERS[key]


_ORDERS: dict[tuple[int, int, int], np.ndarray] = {}


class Sampler:
    """Samples the student's completions with an engine, after bringing the engine's weights up to date."""

    def __init__(self, engine: Any, tokenizer: Any, config: TrainConfig, *, sync: Sync | None = None):
        rollout = config.rollout
        self.engine, self.tokenizer, self.sync = engine, tokenizer, sync
        self.sampling = Sampling(
            temperature=rollout.temperature, top_p=rollout.top_p, top_k=rollout.top_k,
            max_new_tokens=rollout.max_new_tokens, seed=config.run.seed, stop_token_ids=(tokenizer.eos_token_id,),
        )  # fmt: skip

    def close(self) -> None:
        """Give back what an engine of its own holds: files of weights, memory."""
        if self.sync is not None:
            self.sync.close()

    def sample(
        self, rows: Sequence[Row], prompts: Mapping[str, Prompts], *, step: int, logprobs: bool = False
    ) -> list[Rollout]:
        """One rollout for each row, in the order of the rows; ``step`` is the number of optimiser steps done."""
        if self.sync is not None:
            self.sync(self.engine, step)
        requests = [
            Request(row.problem.problem_id, row.draw, tuple(prompts[row.problem.problem_id]["student"])) for row in rows
        ]
        done = {
            (c.problem_id, c.draw): c
            for c in self.engine.generate(requests, sampling=self.sampling, logprobs=logprobs)
        }
        if missing := [r.problem_id for r in requests if (r.problem_id, r.draw) not in done]:
            raise RuntimeError(f"the engine returned no completion for {', '.join(missing[:10])}")
        found = [done[r.problem_id, r.draw] for r in requests]
        texts = self.tokenizer.batch_decode([c.token_ids for c in found], skip_special_tokens=True)
        return [
            Rollout(c.problem_id, c.draw, tuple(c.token_ids), prompts[c.problem_id], c.finish_reason, text, c.logp)
            for c, text in zip(found, texts, strict=True)
        ]


def micro_batches(rollouts: Sequence[Rollout], size: int) -> list[list[Rollout]]:
    """Groups of at most ``size`` rollouts, longest first, so that rows of one pass are of similar length."""
    ordered = sorted(rollouts, key=lambda r: -(len(r.prompts["student"]) + len(r.completion_ids)))
    return [list(ordered[i : i + size]) for i in range(0, len(ordered), size)]
