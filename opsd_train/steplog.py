"""One row of ``train.jsonl`` a step: what is counted, summed over processes, and averaged.

| key | meaning |
|---|---|
| step | optimiser steps done, this one included; every other value was measured before its update |
| loss, grad_norm, lr | token mean of the weighted divergence (nats); gradient norm before clipping |
| problems, rollouts, n_tokens, processes | distinct problems, rollouts and completion tokens of the step; processes |
| completion_tokens | mean tokens a completion |
| truncation_rate, loop_rate | share of rollouts cut at the length limit, ending in a loop |
| marker_rate, markers.<category> | epistemic markers per 1,000 completion tokens |
| entropy, kl_base | token means, nats: student's entropy, KL(student ‖ base) on its own samples (null: not scored) |
| clipped_share, negative_share | share of clipped entries (or tokens); of tokens with a negative divergence |
| diagnostics | see ``opsd_train/diagnosis.py``; absent between diagnoses |
| seconds.<part> | rollout, frozen, student, optimiser, diagnostics, other, total |
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from opsd_eval.metrics.lexicons import CATEGORIES
from opsd_eval.metrics.loops import is_loop
from opsd_eval.metrics.markers import hits_of
from opsd_eval.records import Problem
from opsd_train.rollouts import Rollout

PARTS = ("rollout", "frozen", "student", "optimiser", "diagnostics", "other")
_STATS = {
    "entropy": "student_entropy", "kl_base": "kl_from_base", "clipped_share": "clipped", "negative_share": "negative",
}  # fmt: skip


class Clock:
    """Seconds by part: ``clock("rollout")`` books the time since the last call on that part."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.start = self.last = self.now()
        self.parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    def __call__(self, part: str) -> None:
        """Book the time since the last booking, after the GPU has done what was queued."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = self.now()
        self.parts[part] += now - self.last
        self.last = now

    def seconds(self) -> dict[str, float]:
        """All parts, which add up to the total, and the total."""
        self("other")
        return {part: round(value, 4) for part, value in {**self.parts, "total": self.last - self.start}.items()}


class StepSums:
    """Running sums of one step, of this process; :meth:`row` reduces them over all processes."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.bad_problems: list[str] = []

    def add_batch(self, loss: Tensor, stats: Mapping[str, Tensor], rollouts: Sequence[Rollout]) -> None:
        """A scored batch: its share of the step's loss, and its per-token statistics (packed as the rollouts are)."""
        self.sums["loss"] += float(loss.detach())
        for name, source in _STATS.items():
            if source in stats:
                self.sums[name] += float(stats[source].sum(dtype=torch.float64))
                self.sums[f"{name}_n"] += stats[source].numel()
        if stats and not bool(loss.isfinite()):
            per_rollout = stats["loss"].split([len(r.completion_ids) for r in rollouts])
            pairs = zip(rollouts, per_rollout, strict=True)
            self.bad_problems += [r.problem_id for r, values in pairs if not bool(values.isfinite().all())]

    def add_rollouts(self, rollouts: Sequence[Rollout], problems: Mapping[str, Problem]) -> None:
        """Lengths, endings, loops and markers of this process's rollouts."""
        for rollout in rollouts:
            self.sums["rollouts"] += 1
            self.sums["n_tokens"] += len(rollout.completion_ids)
            self.sums["truncated"] += rollout.finish_reason == "length"
            self.sums["loops"] += is_loop(rollout.text)
            for hit in hits_of(problems[rollout.problem_id], rollout.text) or ():
                self.sums[f"marker_{hit.category}"] += 1

    def row(self, reduce: Any, *, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The step's means; ``reduce`` sums a float64 vector on ``device`` over processes."""
        names = ["loss", "rollouts", "n_tokens", "truncated", "loops", *(f"marker_{c}" for c in CATEGORIES)]
        names += [key for name in _STATS for key in (name, f"{name}_n")]
        values = reduce(torch.tensor([float(self.sums[n]) for n in names], dtype=torch.float64, device=device))
        s = dict(zip(names, values.tolist(), strict=True))
        rates = {c: _ratio(1000 * s[f"marker_{c}"], s["n_tokens"]) for c in CATEGORIES}
        return {
            "loss": s["loss"],
            "rollouts": int(s["rollouts"]),
            "n_tokens": int(s["n_tokens"]),
            "completion_tokens": _ratio(s["n_tokens"], s["rollouts"]),
            "truncation_rate": _ratio(s["truncated"], s["rollouts"]),
            "loop_rate": _ratio(s["loops"], s["rollouts"]),
            "marker_rate": sum(rates.values()),
            "markers": rates,
            **{name: _ratio(s[name], s[f"{name}_n"]) for name in _STATS},
        }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a row under its dotted name, for trackers."""
    flat: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not math.isnan(value):
            flat[f"{prefix}{key}"] = value
    return flat


def progress_bar(done: int, total: int, *, shown: bool) -> Any:
    """A bar on standard error, with time left."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc="train", unit="step", disable=not shown, mininterval=1.0, smoothing=0.1)


def show(bar: Any, row: Mapping[str, Any]) -> None:
    """Move the bar on by one step and show loss and tokens a second."""
    speed = row["n_tokens"] / max(row["seconds"]["total"], 1e-9)
    bar.set_postfix_str(f"loss {row['loss']:.4f}, {speed:,.0f} tok/s", refresh=False)
    bar.update(1)
