"""Plain equations that hold ("17 + 5 = 22", "3 hours * 20 km/hour = 60 km"), recognised without the full reader.

Most equations of most texts are of this kind. What is not recognised here, or does not hold, goes to the full reader:
this file saves time and finds no error, and a test holds it to the full reader's verdicts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from opsd_eval.arithmetic.evaluate import Number, UnreadableError, divide, lower, number

_OPEN = ("x", "X", "of", "by", "times", "plus", "minus", "half", "mod", "is", "equals", "gives", "makes", "yields",
         "per", "sqrt", "multiplied", "divided")  # fmt: skip
_SIGN_WORDS = ("is", "equals", "gives", "makes", "yields")
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,3}|\d{1,9})(?:\.\d{1,6})?"
_UNIT = r"(?: (?!(?:" + "|".join(_OPEN) + r")\b)[A-Za-z]{2,15}){0,4}(?:/[A-Za-z]{2,15})?"
_MONEY = r"[$\u20ac\xa3]?"
_SIGN = r"(?: ?[-+*/\xd7\xf7] ?| x )"
_EQUATION = re.compile(
    rf"({_NUMBER}{_UNIT}(?:{_SIGN}{_MONEY}{_NUMBER}{_UNIT}){{1,6}}) ?= {{0,220}}{_MONEY}(-?{_NUMBER})(?![\d\w%])"
)
_PART = re.compile(rf"[-+*\xd7\xf7]|/(?![A-Za-z])| x |{_NUMBER}")
_LAST_WORD = re.compile(r"([A-Za-z]+)[ $\u20ac\xa3]+$")
_FIRST_WORD = re.compile(r"(?:/| )([A-Za-z]+)")
_SPACES = " $\u20ac\xa3"


class Quick(NamedTuple):
    """One equation that holds: where it, its sign and its sides begin and end, its value and operators."""

    start: int
    end: int
    at: int
    left_end: int
    right_start: int
    value: Number
    operators: str


def read_plain(block: str) -> dict[int, Quick]:
    """The plain equations of a block that hold and that nothing around them can belong to, by position of the sign."""
    found = {}
    for match in _EQUATION.finditer(block):
        start, end = match.span()
        left_end, right_start = match.end(1), match.start(2)
        if not (_starts_clean(block, start) and _ends_clean(block, end)):
            continue
        left = _PART.findall(match[1])
        value = _value(left)
        if value is None or value != number(match[2].lstrip("-")) * (-1 if "-" in match[2] else 1):
            continue
        at = block.index("=", left_end)
        operators = "".join(left[1::2]).replace("\xd7", "*").replace(" x ", "*")
        found[at] = Quick(start, end, at, left_end, right_start, value, operators)
    return found


def _value(parts: list[str]) -> Number | None:
    """Value of alternating numbers and signs, products first."""
    if len(parts) % 2 == 0 or any(not part[0].isdigit() for part in parts[::2]):
        return None
    try:
        total: Number = 0
        factor, negative = number(parts[0]), False
        for sign, text in zip(parts[1::2], parts[2::2], strict=True):
            other = number(text)
            if sign in "+-":
                total = total - factor if negative else total + factor
                factor, negative = other, sign == "-"
            else:
                factor = divide(factor, other) if sign in "/\xf7" else factor * other
    except UnreadableError:
        return None
    return lower(total - factor if negative else total + factor)


def _starts_clean(block: str, start: int) -> bool:
    """Whether nothing before the equation can belong to it."""
    if start == 0 or block[start - 1] == "\n":
        return True
    if block[start - 1] in "(:":
        return start == 1 or (block[start - 2] in " \n" if block[start - 1] == "(" else block[start - 2].isalpha())
    if block[start - 1] not in _SPACES:
        return False
    at = start - 1
    while at >= 0 and block[at] in _SPACES:
        at -= 1
    if at < 0 or block[at] in "\n,:;":
        return True
    if block[at] == ".":
        return at > 0 and block[at - 1] != "."
    word = _LAST_WORD.search(block, max(0, at - 24), start)
    if word is None or len(word[1]) < 2 or block[word.start() - 1 : word.start()] == "\\":
        return False
    if word[1] == "of":
        return block[word.start() - 2 : word.start()].strip().isalpha()
    return word[1] in _SIGN_WORDS or word[1] not in _OPEN


def _ends_clean(block: str, end: int) -> bool:
    """Whether nothing after the equation can belong to it."""
    after = block[end : end + 2]
    if not after or after[0] in "\n;)":
        return True
    if after[0] in ",.:":
        return len(after) == 1 or after[1] in " \n"
    word = _FIRST_WORD.match(block, end)
    return after == " " or (word is not None and len(word[1]) > 1 and word[1] not in _OPEN)
