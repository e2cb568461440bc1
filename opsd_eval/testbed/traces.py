"""Solutions as the base's corpus writes them, per family, with and without a reference in view.

A trace with ``tag=None`` is what a question-only prompt gets; otherwise a reference is in the prompt. A
reference-only prompt gets the same traces as a question-and-reference prompt, with the question left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from opsd_eval.testbed.chains import Chain, Search, apply, run_operations
from opsd_eval.testbed.design import DESIGN, Design

PLAIN = ""  # the tag of a privileged trace whose reference carries none


def boxed(value: int) -> str:
    """The final answer as written."""
    return f"\\boxed{{{value}}}"


def reference_text(
    family: str, problem: Chain | Search, tag: str = PLAIN, *, answer_only: bool = False, design: Design = DESIGN
) -> str:
    """What privileged prompts append to the question (or show alone)."""
    words = [] if answer_only else [tag] if tag else ["ref"]
    if family == "slips" and isinstance(problem, Chain) and not answer_only:
        words += [chain_steps(problem)] if design.reference_steps else [str(v) for v in problem.values]
    return " ".join([*words, boxed(problem.answer)])


def equation(left: int, operation: tuple[str, int], right: int) -> str:
    """One written step."""
    return f"{left} {operation[0]} {operation[1]} = {right}"


def chain_steps(chain: Chain) -> str:
    """All steps, each closed by a semicolon."""
    befores = (chain.start, *chain.values[:-1])
    return " ".join(
        f"{equation(b, o, v)} ;" for b, o, v in zip(befores, chain.operations, chain.values, strict=True)
    )


def hunch_trace(
    chain: Chain, rng: random.Random, *, tag: str | None, hunches: Sequence[int], design: Design = DESIGN
) -> str:
    """A guess, then usually a check step by step, then the answer. ``hunches``: answers of other problems."""
    if tag is None:
        right, check_rate = design.hunch_right, design.check_rate
    else:
        right = design.privileged_hunch_copies
        check_rate = design.recovery[tag] if tag else design.untagged_recovery
    hunch = chain.answer if rng.random() < right else rng.choice(hunches)
    if rng.random() >= check_rate:
        return f"maybe {hunch} so {boxed(hunch if tag is None else chain.answer)}"
    return f"maybe {hunch} check {chain_steps(chain)} {_verdict(hunch, chain.answer, design)} {boxed(chain.answer)}"


def _verdict(before: int, checked: int, design: Design) -> str:
    """What closes a check: the value it was held against, and whether the two agree."""
    restated = f"was {before} " if design.restate_checked else ""
    return restated + ("ok" if before == checked else "wait")


def slips_trace(chain: Chain, rng: random.Random, *, tag: str | None, design: Design = DESIGN) -> str:
    """A forward chain; without a reference it slips, hedges, and finds slips where it looks again."""
    slip, recheck, reverify, hedge = (design.privileged_slip_rate, *(design.privileged_marker_rate,) * 3)
    if tag is None:
        slip, recheck = design.slip_rate, design.recheck_rate
        reverify, hedge = design.reverify_rate, design.hedge_rate
    words, before = [], chain.start
    for at, operation in enumerate(chain.operations):
        value = written = apply(before, operation)
        words += ["maybe"] if rng.random() < hedge else []
        rechecked = rng.random() < recheck
        wrong = _misses(value, () if rechecked else chain.operations[at + 1 :], design)
        if wrong and rng.random() < slip:
            written = rng.choice(wrong)
        words += [equation(before, operation, written), ";"]
        if rechecked:
            words += ["check", equation(before, operation, value), ";", _verdict(written, value, design), ";"]
        before = value if rechecked else written
    if rng.random() < reverify:
        words += ["check", "all", chain_steps(chain), _verdict(before, chain.answer, design)]
        return " ".join([*words, boxed(chain.answer)])
    return " ".join([*words, boxed(before)])


def _misses(value: int, rest: Sequence[tuple[str, int]], design: Design) -> list[int]:
    """Values off by a slip's distances from which the rest of the chain stays between 0 and the largest value."""
    off = (value + sign * distance for distance in design.slip_distances for sign in (-1, 1))
    return [v for v in off if all(0 <= r <= design.value_max for r in (v, *run_operations(v, rest)))]


def search_trace(problem: Search, rng: random.Random, *, tag: str | None, design: Design = DESIGN) -> str:
    """Try candidates in turn until one gives the target; each miss is abandoned with ``wait``, some for a guess."""
    order, guess_rate = list(problem.candidates), design.guess_rate
    if tag is not None and rng.random() >= design.privileged_branch_rate:
        order, guess_rate = [problem.answer], 0.0
    words: list[str] = []
    for candidate in order:
        if words and rng.random() < guess_rate:
            return " ".join([*words, "so", boxed(candidate)])
        words += ["try", str(candidate), ":", chain_steps(Chain(candidate, problem.operations))]
        words += ["need", str(problem.target)] if design.restate_target else []
        if candidate == problem.answer:
            break
        words += ["no", "wait", *(["was", str(candidate)] if design.restate_tried else [])]
    return " ".join([*words, "yes", boxed(problem.answer)])
