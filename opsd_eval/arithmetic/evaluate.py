"""Exact value of an arithmetic expression given as tokens; nothing is ever executed.

A written expression can be read in more than one way; :class:`Reading` says which. Numbers are integers or exact
fractions; a root that is not exact is carried to 40 decimals and marks the value as inexact. Sizes are bounded (digits
of a number, bits of a value, nesting), and what exceeds a bound raises :class:`UnreadableError` at once.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 60
MAX_BITS = 2048
MAX_DEPTH = 30
_ROOT_SCALE = 10**40

Number = int | Fraction
Piece = tuple[str, str, bool]  # kind, text, whether a space stands before it


class UnreadableError(ValueError):
    """The expression has no value within bounds: malformed, too large, a division by zero, an unknown function."""


@dataclass(frozen=True)
class Reading:
    """One way to read an expression.

    ``percent_is_unit``: 30% is 30, not 3/10. ``tight``: a product written without a sign, and a slash without spaces,
    bind before the other divisions (15 ÷ 1/2 = 30). ``side_by_side``: 2 1/2 is a product, not two and a half.
    """

    percent_is_unit: bool = False
    tight: bool = False
    side_by_side: bool = False


PLAIN = Reading()


def number(text: str) -> Number:
    """Exact value of a number token (``1,234.50``, ``.5``, ``2e3``, ``½``)."""
    if (value := vulgar(text)) is not None:
        return value
    digits = text.replace("{,}", "").replace("\\,", "").replace(",", "")
    if len(digits) > MAX_DIGITS:
        raise UnreadableError("too many digits")
    if digits.isdigit():
        return int(digits)
    exponent = digits.lower().partition("e")[2]
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise UnreadableError("exponent too large")
    return lower(Fraction(digits))


def vulgar(text: str) -> Fraction | None:
    """Value of a one-character fraction (½, ⅔), else None."""
    if len(text) != 1 or text.isascii():
        return None
    top, slash, bottom = unicodedata.normalize("NFKC", text).partition("\u2044")
    return Fraction(int(top), int(bottom)) if slash and top.isdigit() and bottom.isdigit() and int(bottom) else None


def lower(value: Number) -> Number:
    """A whole fraction as an int."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def _bounded(value: Number) -> Number:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise UnreadableError("value too large")
    return value


def divide(left: Number, right: Number) -> Number:
    """Exact quotient."""
    if right == 0:
        raise UnreadableError("division by zero")
    return lower(_bounded(Fraction(left) / right))


def power(base: Number, exponent: Number) -> Number:
    """Exact power; roots only where they are exact."""
    if isinstance(exponent, Fraction):
        return power(_exact_root(base, exponent.denominator), exponent.numerator)
    if abs(exponent) > MAX_BITS or (base == 0 and exponent < 0):
        raise UnreadableError("power out of bounds")
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent) > MAX_BITS:
        raise UnreadableError("power too large")
    return lower(Fraction(base) ** exponent) if exponent < 0 or isinstance(base, Fraction) else base**exponent


def _exact_root(value: Number, degree: int) -> Number:
    value = Fraction(value)
    if value < 0 or degree > 64:
        raise UnreadableError("root out of bounds")
    parts = []
    for part in (value.numerator, value.denominator):
        guess = math.isqrt(part) if degree == 2 else round(part ** (1 / degree)) if part.bit_length() < 900 else -1
        if guess < 0 or guess**degree != part:
            raise UnreadableError("root is not exact")
        parts.append(guess)
    return lower(Fraction(parts[0], parts[1]))


class Expression:
    """Recursive descent over pieces. ``value`` is the result; ``inexact`` is set when a root had to be cut off."""

    def __init__(self, pieces: Sequence[Piece], reading: Reading = PLAIN, numbers: Sequence[Number] | None = None):
        self.pieces = pieces
        self.reading = reading
        self.numbers = numbers
        self.at = 0
        self.depth = 0
        self.inexact = False
        self.value = self._sum()
        if self.at != len(pieces):
            raise UnreadableError("text left over")

    def _kind(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.pieces[place][0] if place < len(self.pieces) else ""

    def _operator(self, allowed: str) -> str:
        if self._kind() == "o" and self.pieces[self.at][1] in allowed:
            self.at += 1
            return self.pieces[self.at - 1][1]
        return ""

    def _sum(self) -> Number:
        value = self._product()
        while sign := self._operator("+-"):
            other = self._product()
            value = _bounded(lower(value + other if sign == "+" else value - other))
        return value

    def _product(self) -> Number:
        value = self._signed()
        while True:
            if sign := self._operator("*/\u00f7"):
                other = self._signed()
                value = _bounded(lower(value * other)) if sign == "*" else divide(value, other)
            elif self._kind() in ("(", "f", "r"):
                value = _bounded(lower(value * self._power()))
            else:
                return value

    def _signed(self) -> Number:
        negative = False
        while sign := self._operator("+-"):
            negative ^= sign == "-"
        value = self._power()
        if self.reading.tight:
            value = self._tight(value)
        return -value if negative else value

    def _tight(self, value: Number) -> Number:
        while True:
            value = self._beside(value)
            if self._is_tight_slash():
                self.at += 1
                value = divide(value, self._beside(self._power()))
            else:
                return value

    def _beside(self, value: Number) -> Number:
        """A factor and those written beside it without a sign."""
        while self._kind() in ("(", "f", "r"):
            value = _bounded(lower(value * self._power()))
        return value

    def _is_tight_slash(self) -> bool:
        if self._kind() != "o" or self._kind(1) != "n" or self.at + 1 >= len(self.pieces):
            return False
        return self.pieces[self.at][1] == "/" and not self.pieces[self.at][2] and not self.pieces[self.at + 1][2]

    def _power(self) -> Number:
        base = self._primary()
        while self._kind() in ("%", "!", "^"):
            kind, text, _ = self.pieces[self.at]
            self.at += 1
            if kind == "%":
                base = base if self.reading.percent_is_unit else divide(base, 100)
            elif kind == "^":
                base = power(base, int(text))
            else:
                if not isinstance(base, int) or not 0 <= base <= 200:
                    raise UnreadableError("factorial out of bounds")
                base = math.factorial(base)
        if self._operator("^"):
            exponent = self._exponent()
            base = power(base, exponent)
        return base

    def _exponent(self) -> Number:
        self._enter()
        negative = False
        while sign := self._operator("+-"):
            negative ^= sign == "-"
        value = self._power()
        self.depth -= 1
        return -value if negative else value

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")

    def _primary(self) -> Number:
        kind = self._kind()
        place = self.at
        self.at += 1
        if kind == "n":
            value = number(self.pieces[place][1]) if self.numbers is None else self.numbers[place]
            return self._mixed(value)
        if kind == "(":
            return self._group()
        if kind == "f":
            return self._fraction()
        if kind == "r":
            return self._root(self._argument())
        raise UnreadableError("no operand")

    def _group(self) -> Number:
        self._enter()
        value = self._sum()
        if self._kind() != ")":
            raise UnreadableError("bracket left open")
        self.at += 1
        self.depth -= 1
        return value

    def _argument(self) -> Number:
        """A bracketed group or one number, as after a root or fraction command."""
        kind = self._kind()
        self.at += 1
        if kind == "(":
            return self._group()
        if kind == "n":
            return number(self.pieces[self.at - 1][1]) if self.numbers is None else self.numbers[self.at - 1]
        raise UnreadableError("command without argument")

    def _fraction(self) -> Number:
        if self._kind() == "n":  # \frac12
            text = self.pieces[self.at][1]
            self.at += 1
            if len(text) != 2 or not text.isdigit():
                raise UnreadableError("fraction without braces")
            return divide(int(text[0]), int(text[1]))
        top = self._argument()
        return divide(top, self._argument())

    def _mixed(self, whole: Number) -> Number:
        r"""A whole number followed by a proper fraction, ``2 1/3`` or ``2\frac13``: their sum, or their product."""
        if not isinstance(whole, int):
            return whole
        if self._kind() == "n" and (part := vulgar(self.pieces[self.at][1])) is not None:
            self.at += 1
            return lower(whole + part)
        if self._kind() == "n" and self._kind(1) == "o" and self._kind(2) == "n":
            start = self.at
            top, bottom = number(self.pieces[start][1]), number(self.pieces[start + 2][1])
            if self.pieces[start + 1][1] == "/" and isinstance(top, int) and isinstance(bottom, int) and bottom:
                self.at += 3
                part = Fraction(top, bottom)
                return lower(whole * part if self.reading.side_by_side else whole + part)
        if self._kind() == "f" and not self.reading.side_by_side:
            start = self.at
            self.at += 1
            part = self._fraction()
            if 0 < part < 1:
                return lower(Fraction(whole + part))
            self.at = start
        return whole

    def _root(self, value: Number) -> Number:
        try:
            return _exact_root(value, 2)
        except UnreadableError:
            if value < 0 or value.numerator.bit_length() > 256 or value.denominator.bit_length() > 256:
                raise
        self.inexact = True
        scaled = math.isqrt(value.numerator * _ROOT_SCALE**2 // value.denominator)
        return Fraction(scaled, _ROOT_SCALE)
