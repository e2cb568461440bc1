"""A run: numbers joined by operators, as they stand on one side of a relation sign."""

from __future__ import annotations

from opsd_eval.arithmetic.evaluate import Piece


class Run:
    """One expression: what it says (``pieces``), where it stands, and what makes it doubtful.

    ``end`` is the end of its last piece, ``stop`` that of the unit words after it. ``first``/``last``: it touches the
    sign before/after it. ``tainted``: an unreadable operand stands before it. ``dangling``: an operator without a
    readable operand follows. ``cuts``: places where it may well end earlier. ``lead``: the word right before it.
    """

    __slots__ = ("bullet", "cuts", "dangling", "ellipsis", "end", "first", "last", "lead", "letters", "pieces", "start",
                 "stop", "tainted", "units")  # fmt: skip

    def __init__(self, start: int, *, first: bool = False, tainted: bool = False, bullet: bool = False, lead: str = ""):
        self.start = self.end = self.stop = start
        self.first, self.tainted, self.bullet, self.lead = first, tainted, bullet, lead
        self.last = self.dangling = self.ellipsis = False
        self.pieces: list[Piece] = []
        self.units: list[str] = []
        self.letters: list[str] = []
        self.cuts: list[int] = []

    def with_pieces(self, pieces: list[Piece]) -> Run:
        """The same run saying something else."""
        other = Run(self.start, first=self.first, lead=self.lead)
        other.end, other.stop, other.ellipsis, other.pieces = self.end, self.stop, self.ellipsis, pieces
        return other

    @property
    def is_literal(self) -> bool:
        """Whether it is a single number, perhaps signed, bracketed, or with a percent sign: nothing was computed."""
        kinds = [kind for kind, _, _ in self.pieces]
        computed = any(kind == "o" and at and kinds[at - 1] != "(" for at, kind in enumerate(kinds))
        return kinds.count("n") == 1 and not computed and not set(kinds) & set("fr!^")

    @property
    def has_percent(self) -> bool:
        """Whether a percent sign occurs in it."""
        return any(kind == "%" for kind, _, _ in self.pieces)
