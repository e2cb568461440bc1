"""Null pairs for an encoder's threshold: one solution told twice in other words (and, to look at, another route).

Two completions are put in one cluster when they are at least as alike as a solution usually is to its own
re-telling. The threshold is the 10th percentile of the similarity of such pairs, so by construction about one
re-telling in ten is split off. The pairs are generated here, so every encoder is calibrated on the same text and a
threshold never depends on the models compared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

NULL_QUANTILE = 0.10
PAIRS_A_TEMPLATE = 6

#: (telling, re-telling, another route) with numbers a, b, c and what follows from them.
_TEMPLATES = (
    ("Each box holds {a} pens and there are {b} boxes, so there are {a} * {b} = {ab} pens. Then {c} pens are given "
     "away, which leaves {ab} - {c} = {ab_c}.",
     "First multiply: {b} boxes with {a} pens each make {ab} pens in total. After giving away {c} of them we are left "
     "with {ab} - {c} = {ab_c} pens.",
     "Set up an equation. Let x be what remains. Since x + {c} must equal the whole stock {a} * {b}, we solve "
     "x = {a} * {b} - {c} and find x = {ab_c}."),
    ("The train covers {a} km in the first hour and {b} km in the second, {a} + {b} = {a_b} km. The rest is "
     "{c} km more, so the trip is {a_b} + {c} = {a_b_c} km long.",
     "Adding the first two hours gives {a_b} km (that is {a} plus {b}). With the remaining {c} km the whole trip is "
     "{a_b_c} km.",
     "Work backwards from the end: the last stretch is {c} km, before it came {b} km, {c} + {b} = {b_c}, and before "
     "that {a} km, so {b_c} + {a} = {a_b_c}."),
    ("The rectangle has sides {a} and {b}. Its perimeter is 2 * ({a} + {b}) = {per}.",
     "To get the perimeter, add length and width, {a} + {b} = {a_b}, and double it: {per}.",
     "Walk around the shape: {a}, then {b}, then {a}, then {b}. The sum {a} + {b} + {a} + {b} is {per}."),
    ("She earns {a} dollars an hour and works {b} hours a day. In {c} days she earns {a} * {b} * {c} = {abc} dollars.",
     "In one day her pay is {a} * {b} = {ab} dollars; over {c} days that becomes {ab} * {c} = {abc} dollars.",
     "Count the hours first. {c} days of {b} hours are {bc} hours altogether, and at {a} dollars each that is {abc}."),
    ("We need the average of {a}, {b} and {c}. Their sum is {a_b_c}, and dividing by 3 gives the mean, {a_b_c} / 3.",
     "The mean is the total divided by the count: ({a} + {b} + {c}) / 3 = {a_b_c} / 3.",
     "Guess that the mean is {a}. The deviations are 0, {b} - {a} and {c} - {a}; a third of their sum corrects the "
     "guess, which gives {a_b_c} / 3."),
    ("Let n be the number. Then {a}n + {b} = {anb}, so {a}n = {an} and n = {c}.",
     "Subtract {b} from both sides of {a}n + {b} = {anb} to get {a}n = {an}; dividing by {a} shows n = {c}.",
     "Try small values. For n = 1 the left side is too small, so increase n step by step; at n = {c} we hit {anb} "
     "exactly."),
    ("There are {a} red and {b} blue marbles, {a_b} in all. The probability of red is {a}/{a_b}.",
     "Out of {a_b} marbles ({a} red plus {b} blue), {a} are favourable, hence the probability is {a}/{a_b}.",
     "Use the complement: blue has probability {b}/{a_b}, and red is everything else, 1 - {b}/{a_b} = {a}/{a_b}."),
    ("Maybe the answer is {c}. Check: {a} + {b} = {a_b}; so it is not {c}. The answer is {a_b}.",
     "Perhaps it is {c}? Let me verify. {a} plus {b} makes {a_b}, so no. It must be {a_b}.",
     "Start at {a} and count up {b} steps on the number line; you arrive at {a_b}."),
)  # fmt: skip


def calibration_pairs(seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(null pairs: a solution and its re-telling; other pairs: a solution and another route to the same answer)."""
    rng = random.Random(f"calibration/{seed}")
    same, other = [], []
    for telling, retelling, route in _TEMPLATES:
        for _ in range(PAIRS_A_TEMPLATE):
            numbers = _numbers(rng)
            same.append((telling.format(**numbers), retelling.format(**numbers)))
            other.append((telling.format(**numbers), route.format(**numbers)))
    return same, other


def _numbers(rng: random.Random) -> dict[str, int]:
    a, b, c = rng.randint(11, 40), rng.randint(11, 40), rng.randint(3, 9)
    return {
        "a": a, "b": b, "c": c, "ab": a * b, "bc": b * c, "abc": a * b * c, "ab_c": a * b - c, "a_b": a + b,
        "b_c": b + c, "a_b_c": a + b + c, "per": 2 * (a + b), "an": a * c, "anb": a * c + b,
    }  # fmt: skip


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile by linear interpolation."""
    ranked = sorted(values)
    at = q * (len(ranked) - 1)
    low = int(at)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (at - low) * (ranked[high] - ranked[low])
