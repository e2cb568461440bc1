"""Ways of writing solutions that the arithmetic checker once got wrong: what must stay quiet, what must be found."""

from __future__ import annotations

import pytest

from opsd_eval.arithmetic import check

QUIET = (
    "log2(8) = 3", "x3 - 1 = 0", "10 * log10(500) = 27", "dBm = 10 * log10(500)\n = 10 * 2.7 = 27",
    "8/2(2+2) = 1", "8/2(2+2) = 16", "$0.02(0.02) 4=2 / 25$",
    "2 million + 500,000 = 2.5 million", "2 million + 500,000 = 2,500,000", "$3 + 50 cents = $3.50",
    "We have $2x+3=11$, so $2x=8$.", "2x -3 = 5",
    "The remainder when 17 is divided by 5 is 2, since 17 = 3*5 + 2.", "20 / 6 = 3 with 2 left over",
    "20 / 6 = 3 full boxes with 2 left.",
    "But that contradicts 3 + 4 = 8.", "It is not true that 3 + 4 = 8.", "2*5 + 3 = 11 \u2717",
    "(\u22123)\u00b2 = 9 and \u22123\u00b2 = \u22129", "36 (12 \u00d7 3) + 16 (8 \u00d7 2) = 52", "12 (3 * 4) = 12",
    "sin \u03b8 = 3/5 so cos \u03b8 = 4/5", "The base is 12/4 and the height = 5.", "sin x = 3/5, tan x = 6/8 so cos x = 4/5",
    "8 AM + 5 hours = 1 PM", "3 pens + 2 pencils = 3(1.5) + 2(0.5) = 5.5", "4 of 5 is 80%.",
    "If the sum of 3 and 4 is 8, stop.", "The sum of 2 and 3/4 is 2.75", "Dividing 17 by 5 gives 3 remainder 2.",
    "Adding 30 minutes to 2 hours gives 150 minutes.", "Adding 20% to 50 gives 60.", "Twice 15 is 5 more than 25.",
    "Adding 10 to 11 PM gives 9.", "Adding 2 and 3 and 4 gives 9.", "The sum of 3 and 4 times 2 is 11.",
    "12 -\n5*2 = 2", "60% (100% -\n 40% = 60%)", "\\begin{align*} x &= 3+4 \\\\ &\\quad + 5*2 = 17\\end{align*}",
)  # fmt: skip

#: (text, part of the left side of its first wrong equation)
SHARP = (
    ("**Step 1:** 3 * 4 = **13**", "3 * 4"), ("So **3 * 4 = 13**.", "3 * 4"), ("\u2234 3 + 4 = 8", "3 + 4"),
    ("There are 5*12=<<5*12=71>>60 eggs.", "5*12"), ("60 mph x 1.5 h = 93 miles", "60 mph"), ("3m x 4m = 15m\u00b2", "3m"),
    ("First, 3 * 4 = 12. Third: 17 - 2 = 22.", "17 - 2"), ("in the third 10 * 2 = 31", "10 * 2"),
    ("300 thousand + 200 thousand = 600 thousand", "300"), ("5 cents + 10 cents = 25 cents", "5 cents"),
    ("There are $\\binom{6}{2} = \\frac{6!}{2!4!} = 18$ ways.", "6!"), ("3/8 = 0.375 = 38.5%", "0.375"),
    ("\\sqrt{2} \\approx 1.514", "sqrt"), ("5 (from Tom) + 7 (from Ann) = 13", "5 (from Tom)"),
    ("We compute 17^2 mod 10. 17^2 = 296, and 289 mod 10 = 9.", "17^2"), ("10 - 8 = 3 left over", "10 - 8"),
    ("Adding 15 apples to 27 apples gives 43 apples.", "Adding"), ("The sum of 15 and 27 is 43.", "sum of"),
    ("Subtracting 7 from 15 leaves 9.", "Subtracting"), ("Multiplying 6 by 7 gives 43.", "Multiplying"),
    ("Dividing 42 by 6 gives 8.5.", "Dividing"), ("A third of 27 is 8.", "third"), ("Twice 15 is 31.", "Twice"),
    ("The difference between 7 and 15 is 9.", "difference"), ("2x5 + 3x4 = 24", "2x5"), ("5 apples + 3 oranges = 9 fruits", "5 apples"),
)  # fmt: skip


@pytest.mark.parametrize("text", QUIET)
def test_what_is_not_wrong_is_not_flagged(text: str):
    assert check(text).first_error is None


@pytest.mark.parametrize(("text", "left"), SHARP)
def test_the_wrong_equation_is_found(text: str, left: str):
    error = check(text).first_error
    assert error is not None and left in error.lhs


def test_nested_brackets_and_double_signs_of_a_long_chain():
    right = "A = (-1 * 9 + 1 + -1) = ((-1 * 9) + 1 + -1) = (-9 + 1 + -1) = (-8 + -1) = (-9). B = (8 - -7) = 15."
    assert [link.verdict for link in check(right).links].count("invalid") == 0
    wrong = right.replace("(-8 + -1) =", "(-9 + -1) =")
    error = check(wrong).first_error
    assert error is not None and error.lhs == "(-9 + 1 + -1)" and error.rhs == "(-9 + -1)"


def test_bold_type_keeps_positions_and_powers():
    report = check("**2**3 = 8** and 3 * 4 = **12**")
    assert [link.rhs.strip() for link in report.links if link.verdict == "valid"][-1] == "12"
    assert check("2**3 + 4**2 = 24").count("valid") == 1
