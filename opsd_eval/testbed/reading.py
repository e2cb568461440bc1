"""What a testbed completion does, read from its text: steps, checks, and reactions to mismatches it has written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from opsd_eval.records import Problem
from opsd_eval.testbed.chains import apply

_WORD = re.compile(r"\\boxed\{|[A-Za-z]+|\d+|[-+*=;:}]")
_VERDICT = 4  # words that close a check: "; was 42 wait"
MAX_WORDS = 4096  # a solution has at most some 150 words; a longer text is read up to here


@dataclass(frozen=True)
class Step:
    """One written equation ``left symbol operand = result`` and where it stands among the words."""

    left: int
    symbol: str
    operand: int
    result: int
    start: int
    end: int

    @property
    def right(self) -> bool:
        """Whether the arithmetic holds."""
        return apply(self.left, (self.symbol, self.operand)) == self.result


@dataclass(frozen=True)
class Mechanism:
    """Counts of one completion.

    ``attempts`` are steps whose left side was not written before (a correction or a recheck repeats one);
    ``mismatches`` are disagreements that the completion itself has written, ``waits`` those it reacted to.
    """

    checked: bool
    steps: int
    right_steps: int
    attempts: int
    slips: int
    mismatches: int
    waits: int


def words_of(text: str | None) -> list[str]:
    r"""Words, numbers, operators and ``\boxed{`` of a text, at most ``MAX_WORDS``."""
    return [m.group() for _, m in zip(range(MAX_WORDS), _WORD.finditer(text or ""), strict=False)]


def steps_of(words: Sequence[str]) -> list[Step]:
    """Every ``a op b = c`` in the words; numbers of more than six digits make no step."""
    found = []
    for at in range(len(words) - 4):
        left, symbol, operand, equals, result = words[at : at + 5]
        if symbol not in ("+", "-", "*") or equals != "=":
            continue
        if all(n.isdecimal() and len(n) <= 6 for n in (left, operand, result)):
            found.append(Step(int(left), symbol, int(operand), int(result), at, at + 5))
    return found


def is_readable(problem: Problem) -> bool:
    """Whether a problem says what :func:`mechanism` needs to know; one of a foreign log may only bear the name."""
    family, target = (problem.metadata.get(key) for key in ("family", "target"))
    return isinstance(family, str) and family in _READERS and (family != "search" or type(target) is int)


def mechanism(problem: Problem, text: str | None) -> Mechanism:
    """Read a completion of a testbed problem.

    *checked*: hunch and slips, a ``check`` with a step after it; search, the boxed candidate was tried and reached
    the target. *mismatch*: hunch, the checked chain ends on another value than the hunch; slips, a check gives
    another value than the step (``check all``: the chain) before it; search, a trial that misses the target. *wait*:
    hunch, ``wait`` after the last step; slips, ``wait`` within the words that close the check; search, ``no`` or
    ``wait`` before the next trial or the answer.
    """
    words = words_of(text)
    steps = steps_of(words)
    checked, pairs = _READERS[problem.metadata["family"]](problem, words, steps)
    first = list({(s.left, s.symbol, s.operand): s for s in reversed(steps)}.values())
    return Mechanism(
        checked=checked, steps=len(steps), right_steps=sum(s.right for s in steps), attempts=len(first),
        slips=sum(not s.right for s in first), mismatches=len(pairs), waits=sum(pairs),
    )


def _read_hunch(_: Problem, words: Sequence[str], steps: Sequence[Step]) -> tuple[bool, list[bool]]:
    checked = "check" in words and any(s.start > words.index("check") for s in steps)
    hunched = len(words) > 1 and words[0] == "maybe" and words[1].isdecimal()
    if not (checked and hunched) or int(words[1][:7]) == steps[-1].result:
        return checked, []
    return checked, ["wait" in words[steps[-1].end :]]


def _read_slips(_: Problem, words: Sequence[str], steps: Sequence[Step]) -> tuple[bool, list[bool]]:
    checked, reactions = False, []
    begins = [at for at, word in enumerate(words) if word == "check"]
    for begin, end in itertools.pairwise([*begins, len(words)]):
        redone = [s for s in steps if begin < s.start < end]
        checked = checked or bool(redone)
        before = [s.result for s in steps if s.end <= begin]
        whole = words[begin + 1 : begin + 2] == ["all"]
        found = redone[-1:] if whole else redone[:1]
        if found and before and found[0].result != before[-1]:
            after = words[found[0].end : found[0].end + _VERDICT]
            reactions.append("wait" in after)
    return checked, reactions


def _read_search(problem: Problem, words: Sequence[str], steps: Sequence[Step]) -> tuple[bool, list[bool]]:
    target = problem.metadata["target"]
    opens = [at for at, word in enumerate(words) if word == "try"]
    answers = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "\\boxed{"]
    verified, reactions = False, []
    for begin, end in itertools.pairwise([*opens, len(words)]):
        inside = [s for s in steps if begin < s.start < end]
        if not inside:
            continue
        if inside[-1].result == target:
            verified = verified or bool(answers and words[begin + 1 : begin + 2] == answers[-1:])
        else:
            boxed = words.index("\\boxed{", begin, end) if "\\boxed{" in words[begin:end] else end
            reactions.append(any(w in ("no", "wait") for w in words[inside[-1].end : boxed]))
    return verified, reactions


_READERS = {"hunch": _read_hunch, "slips": _read_slips, "search": _read_search}
