"""Whether a wrong equation is taken back by the text and redone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsd_eval.arithmetic.evaluate import Number, UnreadableError, number

if TYPE_CHECKING:
    from opsd_eval.arithmetic.check import Link

#: How many words may lie between the error and the marker, and between the marker and the right value.
WINDOW_WORDS = 60
_WINDOW_CHARS = 8 * WINDOW_WORDS

MARKER = re.compile(
    r"\b(?:wait|no|nope|actually|hmm+|hm|sorry|oops|correction|scratch that|hold on|not right|not correct|incorrect"
    r"|wrong|mistake|mistaken|error|rather|i mean|let me (?:re|double|check|correct|fix|redo|try)|let's (?:re|double"
    r"|check|correct|redo)|re-?comput\w+|re-?calculat\w+|re-?check\w*|redo|should (?:be|have been))\b"
    r"|等等|等一下|不对|不對|错了|算错|重新|更正|其实",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def is_taken_back(text: str, index: int, links: Sequence[Link]) -> bool:
    """Whether ``links[index]`` (wrong) is followed by a marker and then, soon after it, by the right value.

    Right is: a valid equation with the same left or the same right value, or the left side's true value on its own.
    """
    wrong = links[index]
    marker = MARKER.search(text, wrong.end, _window(text, wrong.end))
    if marker is None:
        return False
    end = _window(text, marker.end())
    for link in links[index + 1 :]:
        if link.at >= end:
            break
        if link.start >= marker.start() and link.verdict == "valid" and _same_value(wrong, link):
            return True
    return _states(text, marker.end(), min(end, marker.end() + 80), wrong.left)


def _window(text: str, start: int) -> int:
    """Where ``WINDOW_WORDS`` words after ``start`` end."""
    stretch = text[start : start + _WINDOW_CHARS]
    words = re.finditer(r"\S+", stretch)
    last = 0
    for count, word in enumerate(words, start=1):
        last = word.end()
        if count == WINDOW_WORDS:
            break
    return start + last


def _same_value(wrong: Link, right: Link) -> bool:
    """Whether ``right`` recomputes ``wrong``: the same left value, or its right value by the same kind of step."""
    if not right.operators or right.left is None:
        return False
    if right.left == wrong.left:
        return True
    shared = set(_NUMBER.findall(wrong.lhs)) & set(_NUMBER.findall(right.lhs))
    return right.left == wrong.right and right.operators == wrong.operators and bool(shared)


def _states(text: str, start: int, end: int, value: Number | None) -> bool:
    """Whether the true value stands on its own right after the marker."""
    for match in _NUMBER.finditer(text, start, end):
        try:
            sign = -1 if match.group()[0] == "-" else 1
            if value is not None and sign * number(match.group().lstrip("-")) == value:
                return True
        except UnreadableError:
            continue
    return False
