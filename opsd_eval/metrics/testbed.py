"""Mechanism metrics of the testbed: what a completion does, beside whether it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opsd_eval.metrics.base import NAN, Metric, mean_or_nan
from opsd_eval.records import Problem, Sample
from opsd_eval.testbed.chance import chance, is_testbed
from opsd_eval.testbed.reading import Mechanism, mechanism


def _ratio(over: Callable[[Mechanism], float], under: Callable[[Mechanism], float]) -> Callable[..., float]:
    """Sum over draws of ``over`` divided by that of ``under``; NaN when the latter is 0."""

    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        read = [mechanism(problem, s.text) for s in samples if s.text is not None]
        total = sum(under(m) for m in read)
        return sum(over(m) for m in read) / total if total else NAN

    return compute


def accuracy_given_check(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of right answers among the graded completions that check; NaN when none does."""
    return mean_or_nan(
        float(s.correct) for s in samples if s.correct is not None and mechanism(problem, s.text).checked
    )


METRICS = (
    # Share of completions that check (see opsd_eval/testbed/reading.py for what that means in each world).
    Metric("p_check", _ratio(lambda m: m.checked, lambda m: 1), "neither", applies=is_testbed),
    Metric(
        "accuracy_given_check", accuracy_given_check, "higher", chance=lambda problem, n: chance(problem, 1),
        applies=is_testbed,
    ),
    # Written equations that hold, pooled over the problem's draws.
    Metric("step_accuracy", _ratio(lambda m: m.right_steps, lambda m: m.steps), "higher", applies=is_testbed),
    # Disagreements written by the completion itself that it reacts to.
    Metric("p_wait_given_mismatch", _ratio(lambda m: m.waits, lambda m: m.mismatches), "higher", applies=is_testbed),
    # First attempts at a step that are wrong; a slip may be corrected later.
    Metric("slip_rate", _ratio(lambda m: m.slips, lambda m: m.attempts), "neither", applies=is_testbed),
)
