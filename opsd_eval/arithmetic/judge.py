"""Decide whether one equality holds.

A mismatch is a charge, not yet a verdict: it is dropped where another usual reading makes the sides equal (*valid*),
and where the text leaves room for doubt (*unchecked*). Only what survives is *invalid*.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

from opsd_eval.arithmetic.evaluate import (
    PLAIN,
    Expression,
    Number,
    Piece,
    Reading,
    UnreadableError,
    divide,
    lower,
    number,
)
from opsd_eval.arithmetic.runs import Run
from opsd_eval.arithmetic.units import may_convert

VALID, INVALID, UNCHECKED, RECOVERED = "valid", "invalid", "unchecked", "recovered"

#: Inexact values are compared to this relative precision; long decimals written by a computer to the next one.
_ROOT_PRECISION = Fraction(1, 10**25)
_FLOAT_PRECISION = Fraction(1, 10**9)
_FLOAT_PLACES = 8
_REPEATING = re.compile(r"\.\d{0,2}(?:3{2,}|6{2,}7?|6+7|1{3,})$|\.\d{5,}$")

NOTHING: Mapping[str, Number] = MappingProxyType({})

_DENIED_AFTER = re.compile(
    r"[^\n.;]{0,12}?(?:[?\u2717\u2718\u274c]|\b(?:is|was|are|be|gives|yields|to)\s+(?:an?\s+)?(?:not|false|wrong|incorrect|impossible"
    r"|absurd|contradiction|nonsense)\b|\bisn't\b|\bfails?\b"
    r"|\bcannot\b|\bdoes(?:n't| not)\b|\bremainder\b|\brem\b|\b[rR]\s?\d|\bwith\s+(?:a\s+)?remainder)"
)
_DENIED_BEFORE = re.compile(
    r"(?:(?:\b(?:if|suppose|supposing|assume|assuming|pretend|claim|claims|whether|contradict\w*|not|isn't|wrong|mistaken"
    r"|error|incorrectly|wrongly|(?:can't|cannot|couldn't) be"
    r"|not (?:true|possible|right|correct|the case))\b(?:\s+that)?\s*[:,]?)"
    r"|(?:\b(?:than|twice|thrice|double|triple|half|squared?|cubed?"
    r"|minus|plus|times|modulo|mod|percent)\b(?:\s+of)?(?:\s+the)?|\b(?:half|third|quarter|fifth|sixth|eighth|tenth"
    r"|thirds|quarters|fifths)\s+of|\b(?:add|adding|added|subtract|subtracting)\b[^.\n]{0,20}\b(?:to|from)"
    r"|\bmultipl\w+\b[^.\n]{0,20}\bby|\bdivid\w+\b[^.\n]{0,20}\bby"
    r"|\b(?:sum|product|difference|total|average|mean) (?:of|between)\b[^.=\n]{0,30}\band"
    r"|\b(?:remainder|quotient) (?:when|of|if|from|after)\b[^.=\n]{0,30}))\s*[$(\\]{0,3}\s*$",
    re.IGNORECASE,
)
_LABELS = (
    "step day part question problem case week month year row equation example number no option round line section "
    "chapter figure table item stage phase night hour level game match grade page room gate player team"
)
_CLOCK = frozenset(("am", "pm", "o'clock"))
_LEFT_OVER = re.compile(r"[^\n.;]{0,30}?\b(?:left[ -]?over|with (?:a )?\d+ (?:\w+ )?(?:left|remaining|over|extra)\b)")
_SCALES = frozenset(["dozen", "hundred", "thousand", "million", "billion"])
_COINS = frozenset(["cent", "cents", "penny", "pennies", "dime", "dimes", "nickel", "nickels", "quarter", "quarters"])
_MONEY = re.compile(r"[$\u20ac\xa3]|dollar|euro|pound")
_LABEL = frozenset(_LABELS.split())
_OTHER_BASE = re.compile(r"\b(?:binary|hexadecimal|hex|octal|base[- ](?:\d+|two|three|eight|sixteen))\b", re.IGNORECASE)
_MODULAR = re.compile(r"\\?[pb]?mod(?![a-z])|≡|\bmodulo\b|\bclock\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[,.;]\s|\n\n")
_ABOUT = re.compile(r"round|approx|about|nearest|roughly|truncat|floor|ceil|whole|at (?:least|most)", re.IGNORECASE)


class Context(NamedTuple):
    """The block an equation stands in, whether its sign is ≈, and what it shares with its neighbours in a chain.

    ``continues``: its right side is the next one's left; ``continued``: its left side is the right of the one before.
    """

    text: str
    approximate: bool = False
    continues: bool = False
    continued: bool = False


class Ruling(NamedTuple):
    """Verdict, the values of the two sides (None: unreadable), and whether rounding was needed."""

    verdict: str
    left: Number | None = None
    right: Number | None = None
    rounded: bool = False


def judge(left: Run | None, right: Run | None, context: Context, rounded: Mapping[str, Number] = NOTHING) -> Ruling:
    """Rule on ``left = right``. ``rounded``: numbers the text obtained by rounding, and from what."""
    a, b = _readable(left), _readable(right)
    if left is None or right is None or a is None or b is None or left.dangling:
        return Ruling(UNCHECKED, right=b[0] if b and right and not right.dangling else None)
    if right.dangling:
        return Ruling(VALID if _same(a, b, right, context.approximate) else UNCHECKED, a[0], b[0])
    if a[0] == b[0]:
        return Ruling(VALID, a[0], b[0])
    if _same(a, b, right, context.approximate):
        return Ruling(VALID, a[0], b[0], rounded=True)
    if _other_reading(left, right, context):
        return Ruling(VALID, a[0], b[0])
    if _explained_by_rounding(left, right, b[0], rounded):
        return Ruling(VALID, a[0], b[0], rounded=True)
    return Ruling(UNCHECKED if _doubtful(left, right, a[0], b[0], context) else INVALID, a[0], b[0])


def _readable(run: Run | None) -> tuple[Number, bool] | None:
    return None if run is None or run.tainted else _value(run.pieces, PLAIN)


def _value(pieces: list[Piece], reading: Reading) -> tuple[Number, bool] | None:
    try:
        if reading is PLAIN and len(pieces) in (1, 3) and (quick := _simple(pieces)) is not None:
            return quick, False
        expression = Expression(pieces, reading)
    except (UnreadableError, RecursionError):
        return None
    return expression.value, expression.inexact


def _simple(pieces: list[Piece]) -> Number | None:
    """Value of one number, or of two joined by a sign, without the parser."""
    if pieces[0][0] != "n":
        return None
    first = number(pieces[0][1])
    if len(pieces) == 1:
        return first
    if pieces[1][0] != "o" or pieces[2][0] != "n":
        return None
    second, sign = number(pieces[2][1]), pieces[1][1]
    if sign == "+":
        return lower(first + second)
    if sign == "-":
        return lower(first - second)
    if sign == "*":
        return lower(first * second)
    return divide(first, second) if sign in "/\u00f7" else None


# --- equality up to the digits shown --------------------------------------------------------------------------


def _same(a: tuple[Number, bool], b: tuple[Number, bool], right: Run, approximate: bool) -> bool:
    """Equal, or the right side is the left one cut or rounded to the digits shown."""
    left, shown = a[0], b[0]
    if left == shown:
        return True
    if (a[1] or b[1]) and _close(left, shown, _ROOT_PRECISION):
        return True
    if not right.is_literal:
        return approximate and _close(left, shown, Fraction(1, 100))
    text = _text_of(right)
    scale = Fraction(1, 100) if right.has_percent else Fraction(1)
    return _rounds_to(left / scale, shown / scale, text, approximate, right.has_percent, right.ellipsis)


def _close(left: Number, right: Number, precision: Fraction) -> bool:
    return abs(left - right) <= precision * max(abs(left), abs(right))


def _rounds_to(value: Number, shown: Number, text: str, approximate: bool, percent: bool, ellipsis: bool) -> bool:
    """Whether ``shown``, written as ``text``, is ``value`` rounded or cut at the last digit written."""
    places = len(text.partition(".")[2]) if "e" not in text.lower() else 0
    if places >= _FLOAT_PLACES and _close(value, shown, _FLOAT_PRECISION):
        return True
    if not places and approximate:
        digits = str(abs(int(shown)))
        places = -(len(digits) - len(digits.rstrip("0"))) if shown else 0
        return abs(value - shown) <= Fraction(10) ** -places * Fraction(1, 2) or abs(value - shown) < 1
    if not places and not percent:
        return False
    unit = Fraction(1, 10**places)
    off = abs(value - shown)
    if off <= unit / 2:
        return True
    cut = off < unit and abs(shown) < abs(value) and (shown >= 0) == (value >= 0)
    return cut and (places >= 2 or ellipsis or approximate)


# --- other readings -------------------------------------------------------------------------------------------


def _other_reading(left: Run, right: Run, context: Context) -> bool:
    """Whether a usual second way to read the two sides makes them equal."""
    for one, other in _variants(left, right, context):
        for reading in _readings(one, other):
            a, b = _value(one.pieces, reading), _value(other.pieces, reading)
            if a and b and _same(a, b, other, context.approximate):
                return True
    return False


def _readings(left: Run, right: Run) -> Iterator[Reading]:
    kinds = [p[0] for p in (*left.pieces, *right.pieces)]
    slashes = sum(p[0] == "o" and p[1] in "/\u00f7" for p in left.pieces)
    numbers = [at for at, p in enumerate(left.pieces[1:], 1) if p[0] in "nf(" and left.pieces[at - 1][0] in "n)"]
    percents = [False]
    if "%" in kinds and (right.has_percent or not _scales_percent(left)):
        percents.append(True)
    for percent, tight, beside in itertools.product(
        percents, (False, True) if slashes > 1 or numbers else (False,), (False, True) if numbers else (False,)
    ):
        yield Reading(percent_is_unit=percent, tight=tight, side_by_side=beside)


def _scales_percent(run: Run) -> bool:
    """Whether a percentage is multiplied on this side, which only makes sense as hundredths."""
    return any(p[0] == "o" and p[1] in "*/\u00f7" for p in run.pieces)


def _variants(left: Run, right: Run, context: Context) -> Iterator[tuple[Run, Run]]:
    yield left, right
    if left.bullet:
        yield left.with_pieces(left.pieces[1:]), right
    if left.lead in _LABEL and len(left.pieces) > 2 and left.pieces[1][1] in "+-":
        yield left.with_pieces(left.pieces[2:]), right
        yield left.with_pieces(left.pieces[1:]), right
    if (shorter := _without_echoes(left.pieces)) is not None:
        yield left.with_pieces(shorter), right
    if right.pieces[-1][0] == "!":  # the end of a sentence
        yield left, right.with_pieces(right.pieces[:-1])
    kinds = [p[0] for p in left.pieces]
    if kinds[-3:] == ["o", "n", "%"] and left.pieces[-3][1] in "+-":  # "50 + 10% = 55": ten percent of the fifty
        base = left.pieces[:-3]
        share = [("o", left.pieces[-3][1], False), *left.pieces[-2:], ("o", "*", False)]
        group = [("(", "(", False), *base, (")", ")", False)]
        yield left.with_pieces([*group, *share, *group]), right
    if not context.continues:
        for cut in right.cuts:
            yield left, right.with_pieces(right.pieces[:cut])
    else:  # "4 * 7 = 28 + 12 = 40": a running total
        for cut in range(1, len(right.pieces)):
            if right.pieces[cut][0] == "o" and right.pieces[cut - 1][0] in "n)%":
                yield left, right.with_pieces(right.pieces[:cut])
                break


def _without_echoes(pieces: list[Piece]) -> list[Piece] | None:
    """An expression without the brackets that say again what stands before them ("36 (12 * 3) + 16 (8 * 2)")."""
    kept: list[Piece] = []
    at = 0
    while at < len(pieces):
        kept.append(pieces[at])
        following = pieces[at + 1 : at + 2]
        if pieces[at][0] == "n" and following and following[0][0] == "(" and following[0][2]:
            end = next((i for i in range(at + 2, len(pieces)) if pieces[i][0] == ")"), at)
            inside = _value(pieces[at + 2 : end], PLAIN) if end > at + 3 else None
            if inside is not None and inside[0] == number(pieces[at][1]):
                at = end
        at += 1
    return kept if len(kept) < len(pieces) else None


def _explained_by_rounding(left: Run, right: Run, shown: Number, rounded: Mapping[str, Number]) -> bool:
    """Whether the mismatch lies within the rounding of numbers that were themselves rounded.

    A number the text rounded itself may stand for what it was rounded from; one that looks cut off (0.333, or five
    decimals), or a decimal new on the right side, for anything within half a unit of its last digit.
    """
    slack = Fraction(0)
    if right.is_literal:
        places = len(_text_of(right).partition(".")[2])
        slack = Fraction(1, 2 * 10**places) if places else Fraction(0)
    exact = {at: rounded[p[1]] for at, p in enumerate(left.pieces) if p[0] == "n" and p[1] in rounded}
    if exact and any(abs(value - shown) <= slack for value in _values_with(left.pieces, exact)):
        return True
    known = {p[1] for p in left.pieces if p[0] == "n"}
    loose_left = [at for at, p in enumerate(left.pieces) if p[0] == "n" and _REPEATING.search(p[1])]
    loose_right = [at for at, p in enumerate(right.pieces) if p[0] == "n" and "." in p[1] and p[1] not in known]
    loose_right = [] if right.is_literal else loose_right
    if not loose_left and not loose_right:
        return False
    lefts, rights = _spread(left.pieces, loose_left), _spread(right.pieces, loose_right)
    if not lefts or not rights:
        return False
    return min(lefts) - slack <= max(rights) and min(rights) <= max(lefts) + slack


def _text_of(literal: Run) -> str:
    return next(text for kind, text, _ in literal.pieces if kind == "n")


def _values_with(pieces: list[Piece], replaced: Mapping[int, Number]) -> list[Number]:
    """Values of an expression when some of its numbers are replaced, each alone and all together."""
    found: list[Number] = []
    for chosen in [*({at: value} for at, value in replaced.items()), replaced][:5]:
        try:
            plain = [number(text) if kind == "n" else 0 for kind, text, _ in pieces]
            found.append(Expression(pieces, PLAIN, [chosen.get(at, value) for at, value in enumerate(plain)]).value)
        except (UnreadableError, RecursionError):
            continue
    return found


def _spread(pieces: list[Piece], loose: list[int]) -> list[Number]:
    """Values of an expression when up to three loose numbers move by half a unit of their last digit, either way."""
    found: list[Number] = []
    halves = {at: Fraction(1, 2 * 10 ** len(pieces[at][1].partition(".")[2])) for at in loose[:3]}
    for signs in itertools.product((-1, 1), repeat=len(halves)):
        moved = {
            at: number(pieces[at][1]) + sign * half for (at, half), sign in zip(halves.items(), signs, strict=True)
        }
        found += _values_with(pieces, moved)[-1:]
    return found


# --- doubt ----------------------------------------------------------------------------------------------------


def _doubtful(left: Run, right: Run, a: Number, b: Number, context: Context) -> bool:
    """Whether a mismatch may be something other than an error."""
    named = bool(left.lead or left.units or left.tainted)
    if left.is_literal and (named or (right.is_literal and not (context.continued and right.has_percent))):
        return True
    if set(left.letters) != set(right.letters) and set(left.letters) | set(right.letters) - set("mgs"):
        return True
    additive = any(p[0] == "o" and p[1] in "+-" for p in (*left.pieces, *right.pieces))
    if may_convert((*left.units, *right.units), a, b, additive=additive):
        return True
    text = context.text
    if _CLOCK & {*left.units, *right.units} or _is_other_kind(left, right, a, b, text):
        return True
    if additive and _counts_unlike(left, right, text):
        return True
    after, before = text[right.end : right.end + 40], text[max(0, left.start - 48) : left.start]
    if not context.continues and _DENIED_AFTER.match(after):
        return True
    if _DENIED_BEFORE.search(before) or _MODULAR.search(text, left.start, _clause_end(text, right.end)):
        return True
    if re.match(r"[ \u00a0]\d{3}(?!\d)", after) or _OTHER_BASE.search(text):
        return True
    near = text[max(0, left.start - 30) : right.end + 40]
    places = len(_text_of(right).partition(".")[2]) if right.is_literal else 0
    return bool(abs(a - b) <= Fraction(1, 10**places) and _ABOUT.search(near))


def _clause_end(text: str, start: int, reach: int = 16) -> int:
    """Where the clause that an equation stands in ends, at most ``reach`` characters after it."""
    stop = _CLAUSE_END.search(text, start, start + reach)
    return min(len(text), start + reach) if stop is None else stop.start()


def _counts_unlike(left: Run, right: Run, text: str) -> bool:
    """Whether some of the terms are counted in another size than others: 2 million + 500,000, $3 + 50 cents."""
    units = (*left.units, *right.units)
    terms = sum(p[0] == "n" for p in (*left.pieces, *right.pieces))
    coins = sum(unit in _COINS for unit in units)
    if 0 < coins < terms and _MONEY.search(text, max(0, left.start - 1), right.end):
        return True
    return 0 < sum(unit in _SCALES for unit in units) < terms


def _is_other_kind(left: Run, right: Run, a: Number, b: Number, text: str) -> bool:
    """Whether the sign may say something else than equality of numbers.

    A quotient whose remainder is told apart ("20 / 6 = 3 with 2 left over"), a share ("4 of 5 is 80%"), or things that
    are counted on the left and priced on the right ("2 pens + 3 pencils = 2 * 1.5 + 3 * 0.5").
    """
    if isinstance(a, Fraction) and b == math.floor(a) and _LEFT_OVER.match(text, right.end):
        return True
    signs = {p[1] for p in left.pieces if p[0] == "o"}
    if right.has_percent and signs == {"*"} and not left.has_percent and " of " in text[left.start : left.end]:
        return True
    return signs == {"+"} and len(set(left.units)) > 1 and any(p[1] in ("*", "(") for p in right.pieces)
