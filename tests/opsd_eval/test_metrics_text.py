"""Markers, language, repetition: values derived by hand, and the traps that a word counter falls into."""

from __future__ import annotations

import math
import zlib

import pytest

from opsd_eval.metrics import METRICS, PAIR_METRICS
from opsd_eval.metrics.language import count_switches, is_off_language, language_of
from opsd_eval.metrics.lexicons import KIM_WORDS
from opsd_eval.metrics.markers import hits_of, marker_profile, masked_spans, raw_hits
from opsd_eval.records import Problem, Sample

PROBLEM = Problem("p", "A question about nothing in particular: what is the sum of all of these numbers?", "5")


def sample(text, draw=0, **values):
    return Sample("p", draw, text, **values)


def names(text, problem=PROBLEM):
    hits = hits_of(problem, text)
    return None if hits is None else [hit.marker for hit in hits]


# --- the published counter --------------------------------------------------------------------------------


def published(text):
    """The counter as published: lower-case substring counts of ten words."""
    return sum(text.lower().count(word) for word in KIM_WORDS)


@pytest.mark.parametrize(("text", "count"), [
    ("Wait, hmm, perhaps maybe", 4), ("checkout by the waiter", 2), ("WAITWAIT", 2), ("unlikely", 1), ("", 0),
    ("It seems it might actually check out. Alternatively, it is likely.", 6),
])  # fmt: skip
def test_kim10_is_the_published_counter(text, count):
    assert published(text) == count
    assert METRICS["kim10_raw"](PROBLEM, [sample(text)]) == count


def test_kim10_is_a_mean_over_draws():
    assert METRICS["kim10_raw"](PROBLEM, [sample("wait wait"), sample("no", 1), sample(None, 2)]) == 1.0


# --- the robust counter -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [
    ("Wait, I should check this.", ["wait", "check"]),
    ("The waiter did the checkout; that is unlikely.", []),
    ("Hmmm. Let me double-check; I'm not entirely sure.", ["hmm", "double-check", "not sure"]),
    ("Hold on, another approach instead", ["hold on", "another way", "instead"]),
    ("It is $maybe$ and `wait` and \\(perhaps\\) but maybe.", ["maybe"]),
    ("```\nwait = check()\n```\nwait", ["wait"]),
    ("It costs $5 and maybe $6 more.", ["maybe"]),  # prices, not mathematics
    ("It costs $5 and maybe $6, perhaps $7.", ["maybe", "perhaps"]),
    ("MAYBE", ["maybe"]),
    ("I don’t know, don't know, do not know", ["don't know"] * 3),
    ("等一下，也许不对，我们检查一下。这不可能。", ["等等", "也许", "不对", "检查"]),  # "impossible" is no hedge
    ("nothing of the kind", []),
])  # fmt: skip
def test_markers_by_hand(text, expected):
    assert names(text) == expected


def test_text_copied_from_the_problem_is_masked():
    problem = Problem("p", "Tom will check whether it might rain on one of the days. What is the answer?", "5")
    text = "We read: Tom will check whether it might rain. Let me check the days."
    assert names(text, problem) == ["check"]
    assert len(raw_hits(text)) == 3


def test_markers_in_a_loop_do_not_count():
    loop = "Wait, let me look at this again now. "
    assert len(names("Maybe it is so. " + loop * 40)) <= 3


def test_a_language_without_lexicon_is_left_out_not_zero():
    russian = "Мы сначала вычислим значение этого числа, потому что нам нужно найти ответ на этот вопрос. "
    assert names(russian) is None
    assert math.isnan(METRICS["marker_rate"](PROBLEM, [sample(russian, n_tokens=50)]))
    both = [sample(russian, n_tokens=1000), sample("wait", 1, n_tokens=10)]
    assert METRICS["marker_rate"](PROBLEM, both) == 100.0


def test_other_languages_use_their_own_lexicon():
    german = "Vielleicht ist es nicht so, denn wir wissen, dass die Zahl nicht durch zwei teilbar ist. Warte, wir prüfen."
    assert language_of(german) == "de"
    assert names(german) == ["vielleicht", "warte", "prüfen"]


def test_rate_is_pooled_per_thousand_tokens():
    draws = [sample("wait maybe", n_tokens=30), sample("check", 1, n_tokens=20)]
    assert METRICS["marker_rate"](PROBLEM, draws) == pytest.approx(1000 * 3 / 50)
    assert METRICS["marker_rate_hedge"](PROBLEM, draws) == pytest.approx(1000 * 1 / 50)
    assert METRICS["marker_rate_verify"](PROBLEM, draws) == pytest.approx(1000 * 1 / 50)
    # one unknown count: words for every draw of the problem, never a mixture
    draws = [sample("wait maybe so", n_tokens=30), sample("check it", 1)]
    assert METRICS["marker_rate"](PROBLEM, draws) == pytest.approx(1000 * 3 / 5)


def test_categories_add_up():
    draws = [sample("Wait. Maybe, alternatively, check; not sure. Perhaps, hmm.", n_tokens=10)]
    parts = [METRICS[f"marker_rate_{c}"](PROBLEM, draws) for c in ("hedge", "interrupt", "branch", "verify", "uncertainty")]
    assert sum(parts) == pytest.approx(METRICS["marker_rate"](PROBLEM, draws)) and min(parts) > 0


def test_concentration_by_hand():
    assert METRICS["marker_concentration"](PROBLEM, [sample("wait wait wait maybe")]) == 0.75
    assert math.isnan(METRICS["marker_concentration"](PROBLEM, [sample("no such word")]))


def test_productive_share_by_hand():
    text = "3 + 4 = 7. Wait, 3 * 4 = 12." + " x" * 200 + " Maybe, 3 + 4 = 7." + " x" * 200 + " check"
    # the first marker leads to a new result, the second repeats an old one, the third leads nowhere
    assert METRICS["marker_productive_share"](PROBLEM, [sample(text)]) == pytest.approx(1 / 3)


def test_shift_is_a_divergence():
    shift = PAIR_METRICS["marker_shift"]
    a, b = [sample("wait wait maybe")], [sample("check check check")]
    assert shift(PROBLEM, a, a) == 0.0
    assert shift(PROBLEM, a, b) == pytest.approx(shift(PROBLEM, b, a))
    assert 0 < shift(PROBLEM, a, b) <= math.log(2)
    assert math.isnan(shift(PROBLEM, a, [sample("none")]))


def test_profile_over_tenths():
    text = "wait " + "word " * 98 + "check"
    profile = marker_profile(PROBLEM, [sample(text)])
    assert profile[0] == 0.5 == profile[9] and sum(profile) == 1.0


def test_spans_close_and_do_not_swallow():
    assert masked_spans("a $x$ b") == [(3, 5)]
    assert masked_spans("a $x\nb$ c") == []  # inline mathematics ends with its line
    assert masked_spans("\\[ x \n y \\] z") == [(2, 11)]
    assert masked_spans("``` never closed") == []


# --- language ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "language"), [
    ("We first compute the value of the sum and then it is clear that this is the answer.", "en"),
    ("Nous allons calculer la somme des nombres, donc il est clair que le résultat est dans cette liste.", "fr"),
    ("Primero calculamos la suma de los números y entonces es claro que el resultado es para una lista.", "es"),
    ("我们首先计算这个数的值，然后再检查", "zh"),
    ("まず、この数の値を計算します。そして答えを確認します", "ja"),
    ("먼저 이 숫자의 값을 계산하고 그 다음에 확인합니다", "ko"),
    ("Сначала вычислим значение суммы этих чисел", "ru"),
    ("x = 5, y = 7, \\frac{1}{2} + \\alpha", "und"),
    ("maybe 41 check 3 + 4 = 7 ; wait not 41 \\boxed{7}", "und"),
    ("", "und"), ("∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−L|<ε, α+β=γ", "und"),
])  # fmt: skip
def test_language_by_script_and_function_words(text, language):
    assert language_of(text) == language


def test_latex_commands_are_not_words():
    assert language_of("\\to \\in \\or \\if \\to \\in \\or \\if \\to \\in x y z") == "und"


def test_off_language_needs_two_clear_languages():
    english = "How many of the apples are in the box and in the bag of the farmer?"
    chinese = "我们首先计算这个数的值，然后再检查，所以答案是五"
    assert is_off_language(english, chinese)
    assert not is_off_language(english, "5 + 5 = 10")
    assert not is_off_language(chinese, chinese)
    assert is_off_language("Compute gcd(12, 18) please", chinese)  # too short to identify, but in Latin letters
    assert not is_off_language("3 + 4 = ?", chinese)


def test_switches_are_counted_between_segments():
    english = "We first compute the value of this sum and then we can see that it is the answer to the question. " * 3
    chinese = "我们首先计算这个数的值，然后再检查一下结果是不是正确的，所以答案是这个数，我们再看一遍这个问题的条件，然后得到结果。" * 3
    assert count_switches(english) == 0
    assert count_switches(english + chinese) == 1
    assert count_switches(english + chinese + english) == 2
    assert METRICS["language_switches"](PROBLEM, [sample(english), sample(english + chinese, 1)]) == 0.5


# --- repetition and length --------------------------------------------------------------------------------


def test_repetition_by_hand():
    # 8 words: 5 four-grams, 4 of them distinct (the first comes back)
    assert METRICS["ngram_repetition"](PROBLEM, [sample("a b c d a b c d")]) == pytest.approx(1 / 5)
    assert METRICS["ngram_repetition"](PROBLEM, [sample("a b c d e")]) == 0.0
    assert math.isnan(METRICS["ngram_repetition"](PROBLEM, [sample("a b c")]))
    unspaced = "我们计算这个数的值然后检查结果是否正确所以答案" * 4
    assert METRICS["ngram_repetition"](PROBLEM, [sample(unspaced)]) > 0.5


def test_compression_is_zlib_nine_over_bytes():
    text = "Some text, with é and 数. " * 20
    expected = len(zlib.compress(text.encode(), 9)) / len(text.encode())
    assert METRICS["compression_ratio"](PROBLEM, [sample(text)]) == expected
    assert math.isnan(METRICS["compression_ratio"](PROBLEM, [sample("")]))


def test_lengths_and_unclosed_thinking():
    draws = [sample("<think>a</think> b", n_tokens=10), sample("<think> a", 1, n_tokens=20), sample("c", 2)]
    assert METRICS["completion_tokens"](PROBLEM, draws) == 15.0
    assert METRICS["unclosed_think_rate"](PROBLEM, draws) == pytest.approx(1 / 3)


def test_tokens_after_the_first_answer():
    text = "x" * 42 + "\\boxed{5}" + "y" * 49  # 100 characters, 49 after the box
    assert METRICS["tokens_after_answer"](PROBLEM, [sample(text, n_tokens=200)]) == pytest.approx(98)
    assert METRICS["tokens_after_answer"](PROBLEM, [sample("\\boxed{5} a b c")]) == 3.0
    assert math.isnan(METRICS["tokens_after_answer"](PROBLEM, [sample("\\boxed{5", n_tokens=3)]))
