"""Arithmetic told in words: "adding 15 and 27 gives 42", "the product of 6 and 7 is 42", "a third of 27 is 9".

Only whole sentences of these few forms with plain numbers are read; anything else in them (percent, fractions, a
comparison after the result, units that convert) leaves them unread.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from opsd_eval.arithmetic.evaluate import Number, UnreadableError, divide, lower, number
from opsd_eval.arithmetic.units import may_convert

_N = r"[$\u20ac\xa3]?(\d{1,3}(?:,\d{3}){1,3}|\d{1,9}(?:\.\d{1,6})?)(?![\w/^*+%]|[.,]\d|\s?[-+*/^%=])"
_U = r"((?: (?!(?:and|to|from|by|with|is|gives|or)\b)[A-Za-z]{2,15}){0,3})"
_GIVES = r",? (?:is|equals|(?:gives|leaves)(?: (?:us|him|her|them|you))?|makes|yields|results in|we get|you get) "
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_SPOKEN = re.compile(
    rf"\b(?:(?P<plus>sum of|adding) {_N}{_U} (?:and|to|with) {_N}{_U}"
    rf"|(?P<minus>subtracting) {_N}{_U} from {_N}{_U}"
    rf"|(?P<apart>difference (?:between|of)) {_N}{_U} and {_N}{_U}"
    rf"|(?P<times>product of|multiplying) {_N}{_U} (?:and|by) {_N}{_U}"
    rf"|(?P<over>dividing) {_N}{_U} by {_N}{_U}"
    rf"|(?P<part>(?:a|one) (?:{'|'.join(_PARTS)})) of {_N}{_U}"
    rf"|(?P<twice>twice) {_N}{_U}"
    rf"){_GIVES}{_N}",
    re.IGNORECASE,
)
#: Ends of the opening words; they are looked for before the pattern is tried.
_STEMS = (
    "um of ", "dding ", "ubtracting ", "ifference ", "roduct of ", "ultiplying ", "ividing ", "wice ", "alf of ",
    "ird of ", "rter of ", "urth of ", "ifth of ", "ixth of ", "ghth of ", "enth of ",
)  # fmt: skip
_BEFORE, _REACH, MAX_TRIED = 14, 220, 3000
_GOES_ON = re.compile(
    r"[^.,;\n]{0,20}?(?:\b(?:more|less|fewer|times|greater|larger|smaller|percent|of|remainder|left over|per|or)\b|\?)"
)
_DOUBTED = re.compile(r"\b(?:if|suppose|assume|not|whether|claims?|wrong\w*|that)\W+(?:the\s+)?\Z", re.IGNORECASE)
_SIGNS = {"plus": "+", "minus": "-", "apart": "-", "times": "*", "twice": "*", "over": "/", "part": "/"}


class Spoken(NamedTuple):
    """One told operation: where it, its verb and its result stand, both values, and whether it holds."""

    start: int
    end: int
    at: int
    right_start: int
    left: Number
    right: Number
    operators: str
    holds: bool


def read_spoken(text: str) -> Iterator[Spoken]:
    """Yield the told operations of a text in order; linear in the text, at most 3,000 places of each word."""
    done = 0
    for place in heapq.merge(*(_places(text, stem) for stem in _STEMS)):
        match = _SPOKEN.search(text, max(done, place - _BEFORE), place + _REACH) if place >= done else None
        if match is None or match.start() > place:
            continue
        done = match.end()
        kind = match.lastgroup or next(name for name, found in match.groupdict().items() if found)
        values = [group for group in match.groups() if group is not None and group[:1].isdigit()]
        units = [word.lower() for group in match.groups() if group and group[:1] == " " for word in group.split()]
        doubted = _DOUBTED.search(text, max(0, match.start() - 24), match.start())
        if {"am", "pm"} & set(units) or doubted or _GOES_ON.match(text, match.end()):
            continue
        try:
            numbers = [number(value) for value in values]
            left = _apply(kind, numbers[:-1], match[kind].lower())
        except UnreadableError:
            continue
        right, shown = numbers[-1], values[-1].partition(".")[2]
        if left != right and may_convert(_units_after(text, match.end(), units), left, right, additive=True):
            continue
        if left.denominator != 1 and not shown:
            continue  # a whole number for a quotient: rounded, or the remainder is told apart
        holds = abs(left - right) <= (Fraction(1, 2 * 10 ** len(shown)) if left.denominator != 1 else 0)
        start = match.start() + len(match.group()) - len(match.group().lstrip())
        yield Spoken(start, match.end(), match.start(len(match.groups())) - 1, match.start(len(match.groups())), left,
                     right, _SIGNS[kind], holds)  # fmt: skip


def _places(text: str, stem: str) -> Iterator[int]:
    at = text.find(stem)
    for _ in range(MAX_TRIED):
        if at < 0:
            return
        yield at
        at = text.find(stem, at + 1)


def _apply(kind: str, numbers: list[Number], word: str) -> Number:
    if kind == "part":
        return divide(numbers[0], _PARTS[word.split()[-1]])
    if kind == "twice":
        return lower(2 * numbers[0])
    a, b = numbers
    if kind == "over":
        return divide(a, b)
    if kind == "times":
        return lower(a * b)
    return lower({"plus": a + b, "minus": b - a, "apart": abs(a - b)}[kind])


def _units_after(text: str, end: int, units: list[str]) -> list[str]:
    after = re.match(r" ([A-Za-z]{1,15})", text[end : end + 20])
    return [*units, after[1].lower()] if after else units
