"""Units that convert into one another, so that a number may change across an equals sign without being wrong."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

UNIT_LETTERS = frozenset("mghslLt")

_UNITS = {
    "time": "second seconds sec secs minute minutes min mins hour hours hr hrs day days week weeks month months year "
            "years decade decades century s h",
    "length": "mm cm m km millimeter millimeters centimeter centimeters meter meters metre metres kilometer kilometers "
              "kilometre kilometres inch inches foot feet ft yard yards yd mile miles mi",
    "mass": "mg g kg gram grams kilogram kilograms ton tons tonne tonnes pound pounds lb lbs ounce ounces oz t",
    "volume": "ml l liter liters litre litres milliliter milliliters gallon gallons quart quarts pint pints cup cups "
              "tablespoon tablespoons teaspoon teaspoons",
    "money": "cent cents penny pennies dime dimes nickel nickels quarter quarters dollar dollars euro euros pound p c",
    "count": "dozen dozens pair pairs score gross hundred hundreds thousand thousands million millions billion",
    "angle": "degree degrees radian radians",
    "share": "percent percentage",
}  # fmt: skip
DIMENSION: dict[str, str] = {unit: dimension for dimension, units in _UNITS.items() for unit in units.split()}

_FACTORS = {
    "time": (60, 3600, 24, 1440, 7, 168, 365, 366, 12, 52, 30, 31, 28, 10, 100),
    "length": (10, 100, 1000, 12, 3, 36, 1760, 5280),
    "mass": (1000, 16, 2000, 14),
    "volume": (1000, 4, 2, 8, 16, 3, 48, 128),
    "money": (100, 10, 5, 25, 20, 4),
    "count": (12, 24, 20, 2, 144, 100, 1000, 10**6, 10**9),
    "angle": (180,),
    "share": (100,),
}
_SINGULAR = {"feet": "foot", "inches": "inch", "ft": "foot", "hr": "hour", "hrs": "hour", "min": "minute",
             "mins": "minute", "h": "hour", "s": "second", "sec": "second", "secs": "second"}  # fmt: skip


def _name(unit: str) -> str:
    return _SINGULAR.get(unit, unit[:-1] if unit.endswith("s") and len(unit) > 2 else unit)


def may_convert(units: Iterable[str], left: Fraction | int, right: Fraction | int, *, additive: bool) -> bool:
    """Whether a conversion between the units named could explain two different values.

    True when one dimension occurs with two different units, or a counting word such as "dozen" occurs at all, and the
    two values differ by one of that dimension's factors, or the expression adds unlike units (``additive``).
    """
    by_dimension: dict[str, set[str]] = {}
    for unit in units:
        if unit in DIMENSION:
            by_dimension.setdefault(DIMENSION[unit], set()).add(_name(unit))
    ratio = abs(Fraction(left) / Fraction(right)) if right else Fraction(0)
    for dimension, names in by_dimension.items():
        alone = dimension in ("count", "money", "share")
        if (len(names) > 1 or alone) and any(ratio in (factor, Fraction(1, factor)) for factor in _FACTORS[dimension]):
            return True
        if len(names) > 1 and additive:
            return True
    return False
