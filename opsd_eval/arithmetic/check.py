"""From a text to its equality links: blocks of lines, relation signs within a block, sides, verdicts, retractions."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from opsd_eval.arithmetic.blocks import UNFINISHED, blocks
from opsd_eval.arithmetic.evaluate import Number
from opsd_eval.arithmetic.judge import INVALID, NOTHING, RECOVERED, UNCHECKED, VALID, Context, Ruling, judge
from opsd_eval.arithmetic.quick import Quick, read_plain
from opsd_eval.arithmetic.retraction import is_taken_back
from opsd_eval.arithmetic.runs import Run
from opsd_eval.arithmetic.sides import Scanner
from opsd_eval.arithmetic.spoken import read_spoken
from opsd_eval.arithmetic.tokens import plain

MAX_LINKS = 5000
_REACH = 300
_CLAUSE_ENDS = (", ", ". ", ": ", "; ", "\n")

_SIGN = re.compile(r"=(?<![=<>!:/+*-]=)=?(?![=>])|\u2248|\\(?:approx|simeq)(?![A-Za-z])")
_SIGN_OR_WORD = re.compile(
    _SIGN.pattern + r"|[ \t]+(?:is equal to|is|equals|gives|makes|yields)(?=[ \t]+[$\u20ac\xa3]?[-(]?\d)"
)
_WORDS = (" is ", " equals ", " gives ", " makes ", " yields ")
_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")
_BLANK = re.compile(r"(?:\s|[&$`*]|\\\\|\\\[|\\\]|\\quad|\\(?:begin|end)\{\w+\*?\})*")
_COMPARED = re.compile(
    r"\s*(?:more|less|fewer|times|greater|larger|smaller|longer|older|percent|of|and|to|or|per)\b|\s*[-+*/%^]"
)


class Link(NamedTuple):
    """One equality in a text: ``text[start:end]`` from its left to its right side, the sign at ``at``.

    ``verdict`` is valid, invalid, unchecked, or recovered (wrong, taken back and redone). ``left`` and ``right`` are
    the exact values where they could be read, ``operators`` the operations on the left, in order.
    """

    start: int
    end: int
    at: int
    lhs: str
    rhs: str
    verdict: str
    left: Number | None = None
    right: Number | None = None
    operators: str = ""
    rounded: bool = False


@dataclass(frozen=True)
class Report:
    """Every link of a text, in order. ``complete`` is false when the text held more than ``MAX_LINKS``."""

    links: tuple[Link, ...]
    complete: bool = True

    def count(self, verdict: str) -> int:
        """Links with this verdict."""
        return sum(link.verdict == verdict for link in self.links)

    @property
    def first_error(self) -> Link | None:
        """The first invalid link; ``None`` when there is none."""
        return next((link for link in self.links if link.verdict == INVALID), None)


def check(text: str, *, modulus: int | None = None) -> Report:
    """Find and check the equalities of a text. With ``modulus`` set, sides that agree modulo it are equal."""
    text = plain(text)
    links: list[Link] = []
    rounded: dict[str, Number] = {}
    complete = True
    for start, block in blocks(text):
        found = _links(block)
        if rounded and any(link.verdict == INVALID for link in found):
            found = _read(block, rounded)
        for link in found:
            if link.rounded and link.verdict == VALID and link.left is not None:
                rounded[link.rhs.strip(" ()")] = link.left
            links.append(_moved(link, start) if start else link)
        if len(links) >= MAX_LINKS:
            complete = False
            break
    links = _with_spoken(text, links)
    if modulus:
        links = [_modulo(link, modulus) for link in links]
    if any(link.verdict == INVALID for link in links):
        links = [
            link._replace(verdict=RECOVERED) if link.verdict == INVALID and is_taken_back(text, at, links) else link
            for at, link in enumerate(links)
        ]
    return Report(tuple(links), complete)


def _with_spoken(text: str, links: list[Link]) -> list[Link]:
    """The links together with the operations told in words that no link overlaps, in order."""
    found = []
    signs = [link.at for link in links]
    for s in read_spoken(text):
        lhs, rhs = text[s.start : s.at], text[s.right_start : s.end]
        near = links[bisect_left(signs, s.start - _REACH) : bisect_left(signs, s.end + _REACH)]
        if not any(link.start < s.end and s.start < link.end for link in near):
            verdict = VALID if s.holds else INVALID
            found.append(Link(s.start, s.end, s.at, lhs, rhs, verdict, s.left, s.right, s.operators))
    return sorted([*links, *found], key=lambda link: link.at) if found else links


def _moved(link: Link, by: int) -> Link:
    return Link(link[0] + by, link[1] + by, link[2] + by, *link[3:])


def _modulo(link: Link, modulus: int) -> Link:
    if link.verdict != INVALID or not isinstance(link.left, int) or not isinstance(link.right, int):
        return link
    return link._replace(verdict=VALID) if (link.left - link.right) % modulus == 0 else link


# --- one block --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32768)
def _links(block: str) -> tuple[Link, ...]:
    """Links of one block on its own, remembered: samples of one problem repeat each other."""
    return _read(block, NOTHING)


def _read(block: str, rounded: Mapping[str, Number]) -> tuple[Link, ...]:
    """Links of one block, positions relative to it; ``rounded`` as for :func:`judge`."""
    if "<<" not in block:
        return tuple(_read_signs(block, rounded))
    text = _ANNOTATION.sub(lambda match: " " * len(match.group()), block)
    return tuple(_with_annotations(block, _read_signs(text, rounded)))


def _read_signs(text: str, rounded: Mapping[str, Number]) -> list[Link]:
    """Judge every relation sign of a block."""
    signs = list(_SIGN.finditer(text))
    if any(word in text for word in _WORDS):
        signs = [sign for sign in _SIGN_OR_WORD.finditer(text) if _is_sign(text, sign)]
    if not signs:
        return []
    quick = read_plain(text)
    lefts, rights = _sides(text, signs, quick)
    links = []
    for index, sign in enumerate(signs):
        if e := quick.get(sign.start()):
            lhs, rhs = text[e.start : e.left_end], text[e.right_start : e.end]
            links.append(Link(e.start, e.end, e.at, lhs, rhs, VALID, e.value, e.value, e.operators))
            continue
        left, right = lefts[index], rights[index]
        is_word = sign.group()[-1].isalpha() and not sign.group().startswith("\\")
        if is_word and (left is None or right is None or left.is_literal):
            continue
        continues = index + 1 < len(signs) and right is not None and right is lefts[index + 1]
        approximate = sign.group() in ("\u2248", "\\approx", "\\simeq")
        continued = index > 0 and left is not None and left is rights[index - 1]
        ruling = judge(left, right, Context(text, approximate, continues, continued), rounded)
        if is_word and right and ruling.verdict == INVALID and _is_comparison(text, right):
            continue
        at = sign.end() - len(sign.group().lstrip())
        links.append(_link(text, at, sign.end(), left, right, ruling))
    return links


def _is_sign(text: str, sign: re.Match[str]) -> bool:
    """Whether a word in the place of a sign follows a number."""
    before = text[sign.start() - 1 : sign.start()]
    return sign.group()[0] not in " \t" or before.isdigit() or before in (")", "%")


def _is_comparison(text: str, right: Run) -> bool:
    """Whether "is 5" goes on: "is 5 more than", "is 5 * 3"."""
    return not right.is_literal or _COMPARED.match(text, right.stop) is not None


def _link(text: str, at: int, sign_end: int, left: Run | None, right: Run | None, ruling: Ruling) -> Link:
    start, end = (left.start if left else at), (right.end if right else sign_end)
    operators = "".join(p[1] for p in left.pieces if p[0] == "o") if left else ""
    return Link(
        start, end, at, text[start : left.stop] if left else "", text[right.start : end] if right else "",
        ruling.verdict, ruling.left, ruling.right, operators, ruling.rounded,
    )  # fmt: skip


def _sides(
    text: str, signs: Sequence[re.Match[str]], quick: Mapping[int, Quick]
) -> tuple[list[Run | None], list[Run | None]]:
    """Left and right side of every sign; in a chain one run is the right side of a sign and the left of the next.

    Signs of ``quick`` need no sides: nothing around those equations belongs to them.
    """
    lefts: list[Run | None] = []
    rights: list[Run | None] = []
    start, head = 0, None
    for sign in signs:
        end = sign.start()
        known = quick.get(end)
        if known is not None:
            lefts.append(None)
        elif head is not None and ((head.last and end - start <= _REACH) or _is_blank(text, head, end)):
            lefts.append(head)
        else:
            lefts.append(_tail(text, head.end if head else start, end, after="cut" if head else "break"))
        start = known.right_start if known else sign.end()
        head = None if known else Scanner(text, start, min(_end_of(signs, len(rights), text), start + _REACH)).head()
        rights.append(head)
    return lefts, rights


def _end_of(signs: Sequence[re.Match[str]], index: int, text: str) -> int:
    """Where the stretch after a sign ends: at the next sign, or with the text."""
    return signs[index + 1].start() if index + 1 < len(signs) else len(text)


def _is_blank(text: str, run: Run, end: int) -> bool:
    r"""Whether only layout lies between a run and the sign at ``end`` ("... = 27 \\ &= 3^3")."""
    return not run.dangling and _BLANK.fullmatch(text, run.stop, end) is not None


def _tail(text: str, start: int, end: int, *, after: str) -> Run | None:
    """The run that ends at ``end``, looking back no further than the last break between clauses."""
    if end - start > _REACH:
        start, after = end - _REACH, "cut"
    at = max(text.rfind(mark, start, end - 1) for mark in _CLAUSE_ENDS)
    if at >= start and not text[at + 1 : end].isspace():
        after = "cut" if text[at] == "\n" and UNFINISHED.search(text, max(start, at - 12), at + 1) else "break"
        start = at + 1
    runs = Scanner(text, start, end, after=after).scan()
    if not runs:
        return None
    tail = runs[-1]
    return tail if tail.last or _is_blank(text, tail, end) else None


def _with_annotations(block: str, links: list[Link]) -> list[Link]:
    """Add the calculator annotations (``<<9*3=27>>``) that are wrong, or that no equation around them covers."""
    for match in _ANNOTATION.finditer(block):
        around = {link.verdict for link in links if link.start <= match.start() <= link.end} - {UNCHECKED}
        inside = _links(match.group(1))
        if not around or (around == {VALID} and any(link.verdict == INVALID for link in inside)):
            links.extend(_moved(link, match.start(1)) for link in inside)
    return sorted(links, key=lambda link: link.at)
