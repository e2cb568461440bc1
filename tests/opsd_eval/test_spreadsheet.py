"""Cells that cannot be run, and come back as they were."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd_eval.spreadsheet import inert, original

FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "＝1", "'=1", "'\"a\"", "''", "'", "\u2028=1",
            "\u2029=1", "\x85=1"]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_start_with_an_apostrophe(text):
    assert inert(text).startswith("'") and original(inert(text)) == text


@pytest.mark.parametrize("value", ["7", "a = b", "\\frac{1}{2}", "", 3, -0.5, None])
def test_everything_else_stays(value):
    assert inert(value) == value


@given(st.one_of(st.text(st.characters(exclude_categories=()), max_size=12), st.text("'\"=\r\n\\u", max_size=6)))
def test_any_text_survives_a_file(text):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([inert(text), "x"])
    stored = buffer.getvalue().encode("utf-8")
    [[cell, _]] = csv.reader(io.StringIO(stored.decode("utf-8"), newline=""))
    assert original(cell) == text
