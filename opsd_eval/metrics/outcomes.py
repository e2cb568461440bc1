"""Outcome shares: every graded draw is right or one kind of failure, so the six shares sum to one."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_eval.metrics.base import NAN, Metric
from opsd_eval.records import Problem, Sample


def outcome_share(samples: Sequence[Sample], outcome: str) -> float:
    """Share of the graded draws with this outcome; NaN when none is graded."""
    known = [sample.outcome for sample in samples if sample.outcome is not None]
    return known.count(outcome) / len(known) if known else NAN


def loop_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws that are not right and end in a loop.

    Equation: mean of ``outcome == "loop"`` over graded draws. Lower is better. Failure modes: a right answer inside a
    loop counts as right; see ``opsd_eval.metrics.loops`` for what a loop is. Source: own definition (thresholds
    measured on public logs of reasoning models).
    """
    return outcome_share(samples, "loop")


def truncation_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws cut off by the length limit that are neither right nor a loop.

    Equation: mean of ``outcome == "truncated"``. Lower is better. Failure modes: needs ``finish_reason``; a log
    without it counts such draws as no answer or wrong. Source: own definition.
    """
    return outcome_share(samples, "truncated")


def off_language_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws that fail in another language than the question's and are neither loops nor truncated.

    Equation: mean of ``outcome == "off_language"``. Lower is better. Failure modes: silent where either language is
    undetermined (formulas only). Source: own definition.
    """
    return outcome_share(samples, "off_language")


def no_answer_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws without a boxed answer that are not loops, truncated or off-language.

    Equation: mean of ``outcome == "no_answer"``. Lower is better. Failure modes: a prompt that asks for no box makes
    everything "no answer"; compare ``avg_relaxed@k``. Source: own definition.
    """
    return outcome_share(samples, "no_answer")


def wrong_rate(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws with a complete, boxed, wrong answer: failures of reasoning rather than of format.

    Equation: mean of ``outcome == "wrong"``. Lower is better. Failure modes: it also falls when failures turn into
    loops, so read the six shares together. Source: own definition.
    """
    return outcome_share(samples, "wrong")


METRICS = (
    Metric("loop_rate", loop_rate, "lower"),
    Metric("truncation_rate", truncation_rate, "lower"),
    Metric("off_language_rate", off_language_rate, "lower"),
    Metric("no_answer_rate", no_answer_rate, "lower"),
    Metric("wrong_rate", wrong_rate, "lower"),
)
