"""Mechanism metrics of the testbed: what a completion does, beside whether it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opsd_eval.metrics.base import NAN, Metric, mean_or_nan
from opsd_eval.records import Problem, Sample
from opsd_eval.testbed.chance import chance, is_testbed
from opsd_eval.testbed.reading import Mechanism, is_readable, mechanism


def _pooled(
    problem: Problem, samples: Sequence[Sample], over: Callable[[Mechanism], float], under: Callable[[Mechanism], float]
) -> float:
    """Sum over draws of ``over`` divided by that of ``under``; NaN when the latter is 0."""
    read = [mechanism(problem, s.text) for s in samples if s.text is not None]
    total = sum(under(m) for m in read)
    return sum(over(m) for m in read) / total if total else NAN


def p_check(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of completions that check (``opsd_eval/testbed/reading.py`` says what that means in each world).

    Equation: completions that check / completions with text; NaN without text. Neither direction is better: a check
    costs tokens and pays where the first guess is unreliable. Failure modes: reads the testbed's grammar only; a
    garbled check counts as none. Source: ours; the habit that the hunch construction lets a teacher un-teach.
    Differs: no.
    """
    return _pooled(problem, samples, lambda m: m.checked, lambda m: 1)


def accuracy_given_check(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of right answers among the graded completions that check; NaN when none does.

    Equation: right completions that check / graded completions that check. Higher is better: it falls when the check
    itself gets worse, and stays when it is merely skipped more often. Failure modes: with few checks it rests on few
    completions, and on those of the problems that invite one. Source: ours. Differs: no.
    """
    return mean_or_nan(
        float(s.correct) for s in samples if s.correct is not None and mechanism(problem, s.text).checked
    )


def step_accuracy(problem: Problem, samples: Sequence[Sample]) -> float:
    """Written equations that hold ÷ written equations, pooled over the problem's draws; NaN without any.

    Equation: Σ_draws equations that hold / Σ_draws equations. Higher is better. Failure modes: a completion with many
    equations weighs more; skipping the hard steps raises it. Source: ours, exact for the testbed's grammar.
    Differs: ``step_validity`` is the checker for any text.
    """
    return _pooled(problem, samples, lambda m: m.right_steps, lambda m: m.steps)


def p_wait_given_mismatch(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of the disagreements a completion writes down that it reacts to; NaN where it writes none.

    Equation: Σ_draws disagreements followed by a reaction / Σ_draws disagreements. Higher is better. Failure modes:
    disagreements that are never written down are not seen, so read it beside p_check. Source: ours. Differs: no.
    """
    return _pooled(problem, samples, lambda m: m.waits, lambda m: m.mismatches)


def slip_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """First attempts at a step that are wrong ÷ first attempts; a slip may be corrected later. NaN without any.

    Equation: Σ_draws wrong first attempts / Σ_draws first attempts. Neither direction is better by itself: a slip that
    is corrected costs only tokens. Failure modes: garbled steps count as no attempt. Source: ours. Differs: no.
    """
    return _pooled(problem, samples, lambda m: m.slips, lambda m: m.attempts)


def _applies(problem: Problem) -> bool:
    return is_testbed(problem) and is_readable(problem)


METRICS = (
    Metric("p_check", p_check, "neither", applies=_applies),
    Metric(
        "accuracy_given_check", accuracy_given_check, "higher", chance=lambda problem, n: chance(problem, 1),
        applies=_applies,
    ),
    Metric("step_accuracy", step_accuracy, "higher", applies=_applies),
    Metric("p_wait_given_mismatch", p_wait_given_mismatch, "higher", applies=_applies),
    Metric("slip_rate", slip_rate, "neither", applies=_applies),
)
