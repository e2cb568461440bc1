"""What every registered metric must hold to, whoever wrote it."""

from __future__ import annotations

import copy
import math
import random
import re
import time

import pytest

from opsd_eval.metrics import CORPUS_METRICS, FAMILIES, METRICS, PAIR_METRICS, SET_PAIR_METRICS, expand_metrics
from opsd_eval.metrics.base import forget_texts
from opsd_eval.metrics.embeddings import use_encoder
from opsd_eval.records import Problem, Sample

N = 6
ALL = [*expand_metrics(list(FAMILIES), N), *METRICS.values()]
PROBLEM = Problem(
    "p", "How many apples are there in the box and in the bag, if there are 5 of them in each?", "10",
    benchmark="made.up", metadata={"answer_space": 100},
)  # fmt: skip
TEXTS = [
    "Wait, maybe we check the box. 5 + 5 = 10. So the answer is \\boxed{10}.",
    "There are two of them, and each has 5 apples, so that 2 * 5 = 10 apples. \\boxed{10} Let me verify: 10 - 5 = 5.",
    "The apples in the box are 5 and in the bag there are 6, so we have 5 + 6 = 11. \\boxed{11}",
    "<think>Hmm, perhaps this is it, but it might not be so." + " The apples are in the box, wait." * 40,
    "我们首先计算这个数，也许是十。等等，让我们检查一下：5 + 5 = 10。\\boxed{12}",
    "",
]
OUTCOMES = ("right", "right", "wrong", "loop", "off_language", "no_answer")


def samples(count=N, graded=True):
    answers = ("10", "10", "11", None, "12", None)
    return [
        Sample(
            "p", i, TEXTS[i], None, len(TEXTS[i]) // 4, "length" if i == 3 else "stop",
            answer_strict=answers[i], answer_relaxed=answers[i], correct=i < 2 if graded else None,
            correct_relaxed=i < 2 if graded else None, outcome=OUTCOMES[i] if graded else None,
        )
        for i in range(count)
    ]  # fmt: skip


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


@pytest.fixture(autouse=True)
def tfidf():
    use_encoder("tfidf")
    forget_texts()


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
class TestEveryMetric:
    def test_a_float_and_nan_on_empty(self, metric):
        assert math.isnan(metric(PROBLEM, []))
        assert isinstance(metric(PROBLEM, samples()), float)

    def test_invariant_to_the_order_of_draws(self, metric):
        value = metric(PROBLEM, samples())
        for seed in range(3):
            shuffled = samples()
            random.Random(seed).shuffle(shuffled)
            forget_texts()
            use_encoder("tfidf").forget()
            assert same(metric(PROBLEM, shuffled), value)

    def test_inputs_are_not_mutated(self, metric):
        given = samples()
        before = copy.deepcopy(given)
        metric(PROBLEM, given)
        assert given == before

    def test_ungraded_is_not_wrong(self, metric):
        """Draws that nobody graded never change a value that comes from grades, and alone they give no accuracy."""
        ungraded = [
            Sample("p", 10 + i, text="The apples \\boxed{3}", n_tokens=4, finish_reason="stop", answer_strict="3")
            for i in range(3)
        ]
        if metric.better == "higher" and metric.name.partition("@")[0] in ("avg", "pass", "maj", "g-pass", "avg_relaxed"):
            assert math.isnan(metric(PROBLEM, ungraded))
            assert same(metric(PROBLEM, [*samples(), *ungraded]), metric(PROBLEM, samples()))
        if metric.name.endswith(("_rate", "_disagreement")) and metric.name != "unclosed_think_rate":
            assert math.isnan(metric(PROBLEM, samples(graded=False))) or metric.name.startswith("marker")

    def test_odd_samples_are_survived(self, metric):
        odd = [
            Sample("p", 0), Sample("p", 1, ""), Sample("p", 2, " \n"), Sample("p", 3, "\ud800\u202e\x00"),
            Sample("p", 4, "=" * 2000, n_tokens=0, correct=False, outcome="loop"), Sample("p", 5, "1 = " * 500),
        ]  # fmt: skip
        value = metric(Problem("p", ""), odd)
        assert isinstance(value, float)

    def test_docstring_says_formula_source_failure_modes_and_direction(self, metric):
        family = re.sub(r"([@^])\d+", lambda match: match[1] + ("n" if "gap" in metric.name else "k"), metric.name)
        assert_documented(metric, metric.compute.__doc__ or FAMILIES[family].at.__doc__)

    def test_chance_is_a_number(self, metric):
        if metric.chance is not None and metric.applies(PROBLEM):
            assert isinstance(metric.chance(PROBLEM, N), float)


SAYS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither direction is better"}


def assert_documented(metric, text):
    """The docstring names formula, source and failure modes, and the direction that the metric declares."""
    plain = " ".join((text or "").lower().split())
    missing = [part for part in ("equation:", "source:", "failure modes", SAYS[metric.better]) if part not in plain]
    assert not missing, f"{metric.name}: its docstring lacks {missing}"


HOSTILE = [
    "wait " * 400_000, "$" * 1_000_000, "`" * 1_000_000, "\\[" * 400_000, "(" * 1_000_000, "1+" * 500_000,
    "= 1 " * 400_000, "\\boxed{" * 100_000, "<think>" * 100_000, "a" * 10_000_000, "等" * 1_000_000,
    "\u202e\u200b" * 300_000, "9^" * 300_000, "x = 1, " * 100_000, "5 + 5 = 11. " * 50_000, "- " * 500_000,
    "```" * 300_000, "maybe\n" * 100_000, "1.2.3.4." * 100_000, "=" * 1_000_000, "\\frac{1}{" * 100_000,
    "\n".join(f"{i} + {i} = {2 * i + i % 7}, wait" for i in range(50_000)),
    " ".join(f"$x_{i}$ maybe `c{i}`" for i in range(50_000)),
    " ".join(f"\\boxed{{{i}}} so the answer is {i * i}." for i in range(50_000)),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:10]))
def test_hostile_text_is_measured_in_bounded_time(text):
    given = [Sample("p", 0, text, correct=False, outcome="wrong"), Sample("p", 1, text + "!", correct=True)]
    quick = [metric for metric in ALL if metric.default]
    started = time.process_time()
    for metric in quick:
        metric(PROBLEM, given)
    assert time.process_time() - started < 20


def test_shares_of_outcomes_sum_to_one():
    rates = ("loop_rate", "truncation_rate", "off_language_rate", "no_answer_rate", "wrong_rate")
    total = sum(METRICS[name](PROBLEM, samples()) for name in rates)
    assert total + expand_metrics(["avg@k"], N)[0](PROBLEM, samples()) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", PAIR_METRICS.values(), ids=lambda m: m.name)
def test_every_pair_metric(metric):
    assert math.isnan(metric(PROBLEM, [], samples())) and math.isnan(metric(PROBLEM, samples(), []))
    value = metric(PROBLEM, samples(), samples())
    assert isinstance(value, float)
    assert same(metric(PROBLEM, samples()[::-1], samples()[::-1]), value)
    assert isinstance(metric(PROBLEM, [Sample("p", 0)], [Sample("p", 0, "")]), float)
    assert_documented(metric, metric.compute.__doc__)


@pytest.mark.parametrize("metric", CORPUS_METRICS.values(), ids=lambda m: m.name)
def test_every_corpus_metric(metric):
    assert math.isnan(metric.compute([], []))
    other = Problem("q", "What is the sum of the first prime numbers?", "5")
    value = metric.compute([PROBLEM, other], [samples(), samples(2)])
    assert isinstance(value, float)
    assert value == pytest.approx(metric.compute([PROBLEM, other], [samples()[::-1], samples(2)[::-1]]))
    assert_documented(metric, metric.compute.__doc__)


def test_every_set_pair_metric():
    for metric in SET_PAIR_METRICS.values():
        assert math.isnan(metric.compute([]))
        assert_documented(metric, metric.compute.__doc__)
