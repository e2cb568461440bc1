"""Which stretches of a text may hold an equality: lines with a sign, joined where a sign continues the line before."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator

MAX_BLOCK = 1000
MAX_SIGNS = 20_000

#: Words that can stand for an equals sign between two numbers.
WORD_SIGNS = ("is", "is equal to", "equals", "gives", "makes", "yields")
_AFTER_WORD = re.compile(r"[ \t]*(?:equal to[ \t]+)?[$\u20ac\xa3]?[-(]?\d")
_LEADING = re.compile(
    r"(?:[ \t&$]|\\quad|\\qquad|\\phantom\{[^{}\n]{0,80}\})*(?:=(?![=>])|\u2248|\\approx|\\simeq)"
)
#: The end of a line whose expression goes on in the next one.
UNFINISHED = re.compile(r"(?:[\d)\]}%][ \t]*[-+*/\u00f7]|\\(?:times|cdot|div))\s*\Z")
_TRAILING = re.compile(r"[=\u2248][ \t&$\\]*$|\\approx\s*$")


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield (position, text) of the stretches that hold a relation sign, in order; linear in the text."""
    start = end = -1
    for sign in _signs(text):
        if sign < end:
            continue
        line = text.rfind("\n", max(end, 0), sign) + 1 or max(end, 0)
        stop = text.find("\n", sign)
        stop = len(text) if stop < 0 else stop + 1
        if line and (_LEADING.match(text, line, stop) or UNFINISHED.search(text, max(0, line - 12), line)):
            previous = text.rfind("\n", max(0, line - MAX_BLOCK), line - 1) + 1
            line = max(previous, line - MAX_BLOCK, end if start < 0 else start) if end < line else start
        if _TRAILING.search(text[max(line, stop - 40) : stop - 1]):
            after = text.find("\n", stop)
            stop = len(text) if after < 0 else after + 1
        if start < 0:
            start, end = line, stop
        elif line <= start and stop - start <= MAX_BLOCK:
            end = stop
        else:
            yield from _pieces(text, start, end)
            start, end = max(line, end), stop
    if start >= 0:
        yield from _pieces(text, start, end)


def _signs(text: str) -> Iterator[int]:
    """Positions of possible relation signs, at most ``MAX_SIGNS`` of each kind."""
    kinds = [_places(text, "=")]
    if not text.isascii():
        kinds.append(_places(text, "\u2248"))
    if "\\approx" in text or "\\simeq" in text:
        kinds += [_places(text, "\\approx"), _places(text, "\\simeq")]
    for word in (" is ", " equals ", " gives ", " makes ", " yields "):
        if word in text:
            kinds.append(_word_places(text, word))
    return kinds[0] if len(kinds) == 1 else heapq.merge(*kinds)


def _places(text: str, sign: str) -> Iterator[int]:
    at = text.find(sign)
    for _ in range(MAX_SIGNS):
        if at < 0:
            return
        yield at
        at = text.find(sign, at + 1)


def _word_places(text: str, word: str) -> Iterator[int]:
    for at in _places(text, word):
        if at and (text[at - 1].isdigit() or text[at - 1] in ")%") and _AFTER_WORD.match(text, at + len(word)):
            yield at + 1


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    """The stretch, cut between clauses or words where it is longer than ``MAX_BLOCK``."""
    while end - start > MAX_BLOCK:
        low, stop = start + MAX_BLOCK // 2, start + MAX_BLOCK
        cut = max(text.rfind(". ", low, stop), text.rfind(", ", low, stop), text.rfind("\n", low, stop))
        stop = (cut if cut > 0 else max(text.rfind(" ", low, stop), low)) + 1
        yield start, text[start:stop]
        start = stop
    if start < end:
        yield start, text[start:end]
