"""Text in CSV files that a spreadsheet shows and does not run, and that every reader of CSV reads back.

A cell whose first character makes spreadsheets read a formula (``= + - @``, their full-width forms) gets a leading
apostrophe. So does one that starts with an apostrophe, and one that holds control characters or lone surrogates is
written as an apostrophe and a JSON string: :func:`original` is exact.
"""

from __future__ import annotations

import json
import re
from typing import Any

_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def inert(value: Any) -> Any:
    """A text that no spreadsheet runs; anything else as it is."""
    if not isinstance(value, str):
        return value
    if _UNSAFE.search(value):
        return f"'{json.dumps(value)}"
    return f"'{value}" if value.startswith(_STARTS) else value


def original(text: str) -> str:
    """The text that :func:`inert` was given."""
    if text.startswith("'\""):
        return json.loads(text[1:])
    return text[1:] if text.startswith("'") and text[1:].startswith(_STARTS) else text
