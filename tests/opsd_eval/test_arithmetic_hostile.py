"""Completions written to break a parser: time, memory and recursion stay bounded."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_eval.arithmetic import check
from opsd_eval.arithmetic.check import MAX_LINKS

SIZE = 10_000_000
SECONDS = 10  # of processor time; below 1 on an idle core


def noise():
    return "".join(random.Random(0).choices("0123456789+-*/=() .,x%^$\\{}<>\nab", k=SIZE // 10))


@pytest.mark.parametrize(
    "make",
    [
        lambda: "(" * SIZE + "1 = 2",
        lambda: "(" * 100_000 + "1" + ")" * 100_000 + " = 2",
        lambda: "=" * SIZE,
        lambda: "1=" * (SIZE // 2),
        lambda: "3 + 4 = 8\n" * (SIZE // 10),
        lambda: "3 + 4 = 8 " * (SIZE // 10),
        lambda: " " * SIZE + "= 3",
        lambda: "1+" * (SIZE // 2) + "1 = 3",
        lambda: "9" * SIZE + " = 3",
        lambda: r"\frac{" * (SIZE // 6) + " = 2",
        lambda: "1 + 1\n" + "= 3\n" * (SIZE // 4),
        lambda: "<<1=1>>" * (SIZE // 7),
        lambda: "3 is 4 " * (SIZE // 7),
        lambda: "2 + 2 = 5 wait " * (SIZE // 15),
        noise,
    ],
    ids=["open", "nested", "signs", "chain", "lines", "one-line", "spaces", "terms", "digits", "frac", "lines-of-signs",
         "annotations", "words", "retractions", "noise"],
)  # fmt: skip
def test_ten_megabytes_take_seconds_and_few_links(make):
    text = make()
    started = time.process_time()
    report = check(text)
    assert time.process_time() - started < SECONDS
    assert len(report.links) < MAX_LINKS + 1000


@pytest.mark.parametrize("text", ["9^9^9^9 = 5", "9**9**9 = 1", "2^(1/999999999) = 1", "0^-1 = 1", "1/0 = 2", "1e999 = 2"])
def test_towers_and_divisions_by_zero_are_unchecked(text):
    assert [link.verdict for link in check(text).links] == ["unchecked"]


@pytest.mark.parametrize("text", ["", " \n\t", "\x00" * 50, "\ud800 no \udfff", "=", "= =", "\\", "=\n=\n"])
def test_empty_and_broken_text_has_no_verdict(text):
    assert all(link.verdict == "unchecked" for link in check(text).links)


def test_too_many_equations_are_reported_as_incomplete():
    assert not check("1 + 1 = 2\n" * (MAX_LINKS + 5)).complete
    assert check("1 + 1 = 2\n" * 5).complete


WORDS = ["3", "12", "0.5", "1,200", "2 1/2", "half", "of", "x", "times", "divided by", "is", "equals", "sqrt", "km/hour",
         "+", "-", "*", "/", "**", "^", "%", "!", "(", ")", "{", "}", "[", "]", "=", "\u2248", "\n", ".", ",", ":", "$", "&",
         "\\frac", "\\sqrt", "\\text{ab}", "\\\\", "\\circ", "\\approx", "\u00b2", "\u221a", "<<", ">>", "...", "wait", "\u6709", "_", "?"]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(["", " "])), max_size=30))
def test_any_mixture_of_pieces_is_read_without_an_exception(pieces):
    text = "".join(word + space for word, space in pieces)
    for link in check(text).links:
        assert 0 <= link.start <= link.at <= link.end <= len(text)
        assert link.verdict in ("valid", "invalid", "unchecked", "recovered")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_without_an_exception(text):
    check(text)
    check(text.replace("a", "=").replace("b", "3"))
