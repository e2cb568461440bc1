"""The arithmetic checker on single equations (expected verdicts derived by hand) and on the frozen labelled chains."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import pytest

from opsd_eval.arithmetic import check
from opsd_eval.arithmetic import check as package_check
from opsd_eval.arithmetic.blocks import blocks
from opsd_eval.arithmetic.evaluate import Expression, Reading, UnreadableError, number
from opsd_eval.arithmetic.quick import read_plain
from opsd_eval.arithmetic.sides import Scanner
from opsd_eval.arithmetic.tokens import plain, tokenise
from opsd_eval.arithmetic.units import may_convert

FIXTURES = Path(__file__).parent.parent / "fixtures" / "steps"
HASHES = {
    "chains.jsonl": "f835190f74b0f9d3dfb4ab5acbb379885be8d822642d7a13a8582ffeeafb7294",
    "correct.jsonl": "ee6101f8946a8aacd2337918d3ed5a2473712605834d6ef3eb0314a4d2e2b11a",
}


def verdicts(text):
    return [link.verdict for link in check(text).links]


def rows(name):
    return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]


def value(text, **reading):
    text = plain(text)
    (run,) = Scanner(text, 0, len(text)).scan()
    return Expression(run.pieces, Reading(**reading)).value


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("7 - 3 - 2", 2), ("24 / 4 / 2", 3), ("-3^2", -9), ("(-3)^2", 9),
        ("2^3^2", 512), ("2^-1", Fraction(1, 2)), ("9^{1/2}", 3), ("8^(2/3)", 4), ("3²", 9), ("2**5", 32),
        ("1,234.50 + .5", 1235), (r"30{,}000 - 1", 29999), ("1.5e2", 150), ("5! / 3!", 20), ("2(3 + 4)", 14),
        ("(3)(4)", 12), ("2 1/2", Fraction(5, 2)), (r"2\frac{1}{3}", Fraction(7, 3)), (r"\frac12", Fraction(1, 2)),
        (r"\frac{3 + 5}{2 \cdot 4}", 1), (r"\dfrac{\frac{1}{2}}{\frac{3}{4}}", Fraction(2, 3)), (r"\sqrt{16} + 1", 5),
        ("√49", 7), ("sqrt(16)", 4), ("25% of 80", 20), ("3 plus 4 times 2", 11), ("12 divided by 4", 3),
        ("3 hours * 20 km/hour", 60), ("$5 + $3.50", Fraction(17, 2)), ("10 − 4 ÷ 2 × 3", 4), ("5--3", 8),
        ("half of 30", 15), ("1½ + ¾", Fraction(9, 4)), ("⅔ * 3", 2), ("4 skeins per pair of socks + 3 skeins", 7),
    ],
)  # fmt: skip
def test_value_of_an_expression(text, expected):
    assert value(text) == expected


def test_second_readings_of_an_expression():
    assert value("6 / 2(3)") == 9
    assert value("6 / 2(3)", tight=True) == 1
    assert value("15 ÷ 1/2", tight=True) == 30
    assert value("2 1/2", side_by_side=True) == 1
    assert value("30%") == Fraction(3, 10)
    assert value("30%", percent_is_unit=True) == 30


@pytest.mark.parametrize("text", ["1 / 0", "0^-1", "9^9^9^9", "2^5000", "201!", "2^(1/2)", "((", "3 +", "9" * 61])
def test_what_has_no_value_within_bounds_is_unreadable(text):
    with pytest.raises(UnreadableError):
        tokens = tokenise(text, 0, len(text))
        Expression([(t.kind, "^" if t.text == "**" else t.text, False) for t in tokens])


def test_inexact_roots_are_marked_and_close():
    text = "√2"
    (run,) = Scanner(text, 0, len(text)).scan()
    root = Expression(run.pieces)
    assert root.inexact and abs(root.value**2 - 2) < Fraction(1, 10**35)


def test_number_reads_separators_exactly():
    assert number("12,500.25") == Fraction(50001, 4)
    assert number("0.1") == Fraction(1, 10)
    assert isinstance(number("4.0"), int)


# --- verdicts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "3 * 4 = 13", "-7 - (-3) = -10", r"$\frac{3}{4} \times 8 = 7$", "1/2 + 1/3 = 2/5", "20% of 50 = 15",
        "100% - 30% = 60%", "12,500 + 3,750 = 16,350", "2 1/2 + 1 1/4 = 3 1/4", "22 / 7 ≈ 3.24", "5 * 6 = 31 apples",
        "12 times 3 equals 35", "12 plus 5 is 18", "9*3 = <<9*3=28>>28", "It takes <<2/2=2>>two bolts",
        r"\[ 7 \cdot 8 = 54 \]", "(so 3 + 4 = 8)", "Total: 5 x 3 = 16.", "共有 3 × 4 = 13 个", "2^5 = 36", "√49 = 6",
        "$5.25 × 4 = $20.00", "3 hours * 20 km/hour = 70 km", "72 = 8 * 8", "x = 29 - 15 = 13", "1 m + 2 m = 4 m",
        "Step 3: 4 + 4 = 9",
    ],
)  # fmt: skip
def test_wrong_equations_are_flagged(text):
    assert verdicts(text).count("invalid") == 1


@pytest.mark.parametrize(
    "text",
    [
        "15 ÷ 1/2 = 30", "0.05 * 100 = 5%", "(25 - 20) / 20 * 100 = 25%", "100 / 7 = 14.29", "100 / 7 = 14.2857...",
        "2/3 = 66.7%", "100 / 3 = 33 1/3", "5 + 3 = 8 = 16 / 2", "4 * 7 = 28 + 12 = 40", "50 + 10% = 55",
        "33.33 * 3 = 100", "9 x 0.6666666666666666 = 6.0", "1/3 * 60 = 0.33 * 60 = 19.8", "- 5 + 3 = 8", "1 + 1 = 2!",
        "- 27 - 7 = 20", "= 5 - so 2 + 2 = 4", "Step 1 - 5 + 3 = 8", "17 + 5 = 22, 22 - 3 = 19", "3+4=7\n= 14/2",
        "10 apples + 2 = 12 apples - 3 were bad",
    ],
)  # fmt: skip
def test_right_equations_hold_under_a_usual_reading(text):
    found = verdicts(text)
    assert "invalid" not in found and "valid" in found


@pytest.mark.parametrize(
    "text",
    [
        "x = 5", "2x + 3 = 11", "f(3) = 7", "x^2 = 9", "3:2 = 6:4", "12:30 - 1 = 11", "2 km = 2000 m", "5 = five",
        "17 + 5 = 1 (mod 7)", "17 + 5 = 1 mod 7", "(3 * 6) % 7 = 5", "17 / 5 = 3 remainder 2", "Is 3 * 4 = 13?",
        "1 + 1 = 10 in binary", "3 + 4 = 8 is false", "If 2 + 2 = 5, then", "gcd(12, 18) = 6", "1 + 2 + ... + 9 = 45",
        r"\frac{-3 \pm 1}{2} = 4", "T + 3 = 10 - 2", "total - 30 = 20", "2024-05-17 = Friday", "v3.11.2 = 3",
        "3 hours = 3 * 60 = 180 minutes", "2 hours + 30 minutes = 150 minutes", "100_2 = 4", "a_1 + 2 = 5",
        "twice 8 = 4 * 4", "Day 3 = 2 * 5", "17 / 5 = 4 (rounded up)", "3 + 4 < 8 - x = 2", "5! + x = 3",
    ],
)  # fmt: skip
def test_what_is_not_certain_is_not_flagged(text):
    assert "invalid" not in verdicts(text)


def test_positions_and_sides_of_a_link():
    (link,) = check("Thus $12 + 5 = 18$ coins").links
    assert (link.start, link.at, link.end) == (6, 13, 17)
    assert (link.lhs, link.rhs, link.left, link.right, link.operators) == ("12 + 5", "18", 17, 18, "+")


def test_first_error_of_a_chain_is_the_first_wrong_link():
    text = "A = 3 * (4 + 5) = 3 * 8 = 24 = 25"
    error = check(text).first_error
    assert error is not None and text[error.start : error.end] == "3 * (4 + 5) = 3 * 8"
    assert check("2 + 2 = 4").first_error is None


def test_a_line_that_begins_with_a_sign_continues_the_line_before():
    text = "(6 * 12 + 5) * 9\n= (72 + 5) * 9\n= 78 * 9\n= 702"
    assert verdicts(text) == ["valid", "invalid", "valid"]


def test_modulus_makes_congruent_sides_equal():
    assert check("5 + 4 = 2", modulus=7).count("invalid") == 0
    assert check("5 + 4 = 3", modulus=7).count("invalid") == 1


# --- retractions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("11 * 6 = 68. Wait, let me recompute. 11 * 6 = 66.", "recovered"),
        ("11 * 6 = 68, actually 66.", "recovered"),
        ("17 + 5 = 21 wait 17 + 5 = 22 ;", "recovered"),
        ("7 * 6 = 56. Hmm, I meant 7 * 8 = 56.", "recovered"),
        ("11 * 6 = 68. Wait, there is also a fee of 3.", "invalid"),
        ("11 * 6 = 68. Wait, 11 * 6 = 67.", "invalid"),
        ("11 * 6 = 68. Then 11 * 6 = 66.", "invalid"),
        ("11 * 6 = 68. " + "word " * 70 + "Wait, 11 * 6 = 66.", "invalid"),
        ("11 * 6 = 68. Wait. " + "word " * 70 + "11 * 6 = 66.", "invalid"),
    ],
)
def test_an_error_is_recovered_when_taken_back_and_redone_within_reach(text, expected):
    assert verdicts(text)[0] == expected


# --- frozen chains ------------------------------------------------------------------------------------------


def test_fixtures_are_the_frozen_ones():
    for name, digest in HASHES.items():
        assert hashlib.sha256((FIXTURES / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("part", ["dev", "heldout"])
def test_at_least_95_percent_of_planted_errors_are_found_first(part):
    chains = [row for row in rows("chains.jsonl") if row["part"] == part]
    firsts = [check(row["text"]).first_error for row in chains]
    found = sum(link is not None and link.at == row["error_at"] for link, row in zip(firsts, chains, strict=True))
    assert len(chains) > 450
    assert found / len(chains) >= 0.95


@pytest.mark.parametrize("part", ["dev", "heldout"])
def test_at_most_half_a_percent_of_equations_in_right_solutions_are_flagged(part):
    reports = [check(row["text"]) for row in rows("correct.jsonl") if row["part"] == part]
    flagged = sum(report.count("invalid") for report in reports)
    checked = sum(report.count("valid") + report.count("recovered") for report in reports) + flagged
    assert checked > 1000
    assert flagged / checked <= 0.005


def test_quick_path_says_what_the_full_reader_says(monkeypatch):
    texts = [row["text"] for name in HASHES for row in rows(name)]
    found = {block for text in texts for _, block in blocks(plain(text))}
    assert sum(len(read_plain(block)) for block in found) > 2000
    module = __import__("sys").modules[package_check.__module__]
    quick = {block: module._read(block, {}) for block in found}
    monkeypatch.setattr(module, "read_plain", lambda block: {})
    assert {block: module._read(block, {}) for block in found} == quick


def test_units_convert_only_within_a_dimension():
    assert may_convert(["hours", "minutes"], 3, 180, additive=False)
    assert not may_convert(["hours", "minutes"], 3, 170, additive=False)
    assert may_convert(["hours", "minutes"], 32, 150, additive=True)
    assert not may_convert(["hours", "km"], 3, 180, additive=True)
    assert may_convert(["dozen"], 3, 36, additive=False)
