"""Text in CSV files that a spreadsheet shows and does not run.

A cell whose first character makes spreadsheets read a formula (``= + - @``, their full-width forms, tab, line ends)
gets a leading apostrophe. So does one that starts with an apostrophe, which makes :func:`original` exact.
"""

from __future__ import annotations

from typing import Any

_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def inert(value: Any) -> Any:
    """A text that no spreadsheet runs; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS) else value


def original(text: str) -> str:
    """The text that :func:`inert` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_STARTS) else text
