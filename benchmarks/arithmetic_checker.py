"""How sharp and how quiet the arithmetic checker is on the frozen labelled chains.

``python benchmarks/arithmetic_checker.py`` prints the tables of docs/arithmetic-checker.md: development and held-out
parts, the same counts for two baselines (a regular expression for ``a op b = c``; sympy on both sides of each
equals sign), and the time per text. ``--failures`` lists what went wrong in the development part, never in the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from opsd_eval.arithmetic import check

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures" / "steps"
OPERATION = re.compile(r"(-?\d+(?:\.\d+)?)\s*([-+*/×÷])\s*(-?\d+(?:\.\d+)?)\s*=\s*(-?\d+(?:\.\d+)?)")
SIDE = re.compile(r"[\d.+*/() -]*\d[\d.+*/() -]*")

#: (positions of flagged signs, number of equations checked)
Verdicts = tuple[list[int], int]


def ours(text: str) -> Verdicts:
    """The project's checker."""
    links = check(text).links
    return [link.at for link in links if link.verdict == "invalid"], sum(
        link.verdict in ("valid", "invalid", "recovered") for link in links
    )


def regex_baseline(text: str) -> Verdicts:
    """Flag ``a op b = c`` where float arithmetic disagrees by more than 1e-6."""
    flagged, checked = [], 0
    for match in OPERATION.finditer(text):
        a, operator, b, c = float(match[1]), match[2], float(match[3]), float(match[4])
        if operator in "/÷" and b == 0:
            continue
        value = {"+": a + b, "-": a - b, "*": a * b, "×": a * b}.get(operator)
        value = a / b if value is None else value
        checked += 1
        if abs(value - c) > 1e-6:
            flagged.append(match.start() + match.group().index("="))
    return flagged, checked


def sympy_baseline(text: str) -> Verdicts:
    """Cut each line at ``=``, take the characters of arithmetic next to the sign, let sympy decide.

    For these fixtures only: sympify is no safe way to read text that a model wrote.
    """
    import sympy

    flagged, checked, at = [], 0, 0
    for line in text.replace("×", "*").replace("÷", "/").replace("−", "-").split("\n"):
        pieces, place = line.split("="), at
        for left, right in itertools.pairwise(pieces):
            place += len(left)
            ends = SIDE.fullmatch(_tail(left)), SIDE.match(right.strip())
            if all(ends):
                try:
                    difference = sympy.sympify(ends[0].group()) - sympy.sympify(ends[1].group().rstrip(" .("))
                    checked += 1
                    if abs(float(difference)) > 1e-6:
                        flagged.append(place)
                except (sympy.SympifyError, TypeError, ValueError, AttributeError, SyntaxError):
                    pass
            place += 1
        at += len(line) + 1
    return flagged, checked


def _tail(text: str) -> str:
    match = re.search(r"[\d.+*/() -]*$", text)
    return match.group().strip() if match else ""


@dataclass
class Tally:
    """Counts over one group of fixtures."""

    chains: int = 0
    localised: int = 0
    early: int = 0
    late: int = 0
    missed: int = 0
    texts: int = 0
    texts_flagged: int = 0
    checked: int = 0
    flagged: int = 0
    labelled: int = 0
    taken_back: int = 0
    taken_back_flagged: int = 0

    def add_chain(self, error_at: int, flags: list[int]) -> str:
        """Count one chain with a planted error; returns how it went."""
        first = min(flags, default=None)
        name = "missed" if first is None else "localised" if first == error_at else "late"
        name = "early" if first is not None and first < error_at else name
        self.chains += 1
        setattr(self, name, getattr(self, name) + 1)
        return name

    def add_correct(self, row: dict, flags: list[int], checked: int) -> None:
        """Count one text without an error that stands."""
        self.texts += 1
        self.texts_flagged += bool(flags)
        self.checked += checked
        self.flagged += len(flags)
        self.labelled += row["n_equations"]


def wilson(successes: int, n: int, z: float = 1.96) -> str:
    """``share [low, high]`` in percent, 95 % Wilson interval. Source: Wilson (1927), JASA 22:209."""
    if not n:
        return "n/a"
    p = successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return f"{100 * p:.2f} % [{100 * max(low, 0):.2f}, {100 * min(high, 1):.2f}] ({successes}/{n})"


def rows(part: str) -> Iterable[dict]:
    """Fixture rows of one part."""
    for name in ("chains", "correct"):
        for line in (FIXTURES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["part"] == part:
                yield row


def group_of(template: str) -> str:
    """``gsm_symbolic`` for all of its templates, else the template."""
    return "gsm_symbolic" if template.startswith("gsm_symbolic") else template


def measure(part: str, checker: Callable[[str], Verdicts], *, failures: bool = False) -> dict[str, Tally]:
    """Tallies by template group and in total (key ``all``)."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for row in rows(part):
        flags, checked = checker(row["text"])
        for tally in (tallies["all"], tallies[group_of(row["template"])]):
            if row["error_at"] is None:
                tally.add_correct(row, flags, checked)
                outcome = "quiet" if not flags else "false flag"
            else:
                outcome = tally.add_chain(row["error_at"], flags)
            tally.taken_back += len(row["retracted_at"])
            tally.taken_back_flagged += sum(at in flags for at in row["retracted_at"])
        if failures and outcome not in ("quiet", "localised"):
            show(row, flags, outcome)
    return dict(tallies)


def show(row: dict, flags: list[int], outcome: str) -> None:
    """Print one failure of the development part."""
    print(f"--- {row['id']}: {outcome}; error at {row['error_at']}, flagged {flags}")
    for at in flags or [row["error_at"]]:
        line = row["text"][row["text"].rfind("\n", 0, at) + 1 :].split("\n", 1)[0]
        print(f"    {line}")


def summary(tally: Tally) -> list[tuple[str, str]]:
    """The figures of one part."""
    flagged_chains = tally.localised + tally.early + tally.late
    return [
        ("first error localised", wilson(tally.localised, tally.chains)),
        ("precision of the first flag", wilson(tally.localised, flagged_chains)),
        ("flagged before the error", wilson(tally.early, tally.chains)),
        ("correct solutions: equations flagged, of those checked", wilson(tally.flagged, tally.checked)),
        ("correct solutions: texts flagged", wilson(tally.texts_flagged, tally.texts)),
        ("correct solutions: equations checked, of those written", wilson(tally.checked, tally.labelled)),
        ("taken-back errors still flagged", wilson(tally.taken_back_flagged, tally.taken_back)),
    ]


def references(per_family: int = 300, seed: int = 424242) -> None:
    """Count flags on worked solutions that other modules of the project write: gym references, testbed traces."""
    import random

    from reasoning_gym import create_dataset

    from opsd_eval.gym_references import REFERENCES, gym_reference
    from opsd_eval.testbed.traces import search_trace
    from opsd_eval.testbed.worlds import canonical_problems

    def verdicts(texts: Iterable[str]) -> tuple[int, int]:
        flags, checked = zip(*map(ours, texts), strict=True)
        return sum(map(len, flags)), sum(checked)

    print("\n## right solutions from elsewhere\n")
    for family in sorted(set(REFERENCES) - {"gsm_symbolic"}):
        data = create_dataset(family, size=per_family, seed=seed)
        found = (gym_reference(family, row["metadata"], str(row["answer"])) for row in data)
        flagged, checked = verdicts([text for text in found if text])
        if checked:
            print(f"| {family} | {wilson(flagged, checked)} |")
    rng = random.Random(seed)
    items = canonical_problems("search", "id", per_family, seed)
    print(f"| testbed search | {wilson(*verdicts([search_trace(item, rng, tag=None) for item in items]))} |")


def speed(samples: int = 150, seed: int = 777) -> None:
    """Processor time per 1,000 characters of varied worked solutions, nothing remembered from one to the next."""
    sys.path.insert(0, str(FIXTURES))
    import natural

    stream = "\n\n".join(text for _, part, _, text in natural.solutions(20, seed) if part == "dev")
    texts = [stream[at : at + 1000] for at in range(0, min(len(stream) - 1000, 1000 * samples), 1000)]
    started = time.process_time()
    links = sum(len(check(text).links) for text in texts)
    spent = 1000 * (time.process_time() - started) / len(texts)
    print("\n## speed\n")
    print(f"{spent:.2f} ms per 1,000 characters, {links / len(texts):.1f} equations each, {len(texts)} texts")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("dev", "heldout"), help="one part only (default: both)")
    parser.add_argument("--checker", choices=("ours", "regex", "sympy", "all"), default="ours")
    parser.add_argument("--failures", action="store_true", help="list the failures of the development part")
    parser.add_argument("--templates", action="store_true", help="one line a template")
    parser.add_argument("--references", action="store_true", help="also right solutions that other modules write")
    parser.add_argument("--speed", action="store_true", help="also the time per 1,000 characters")
    args = parser.parse_args()
    checkers = {"ours": ours, "regex": regex_baseline, "sympy": sympy_baseline}
    chosen = checkers if args.checker == "all" else {args.checker: checkers[args.checker]}
    for part in [args.part] if args.part else ["dev", "heldout"]:
        for name, checker in chosen.items():
            started = time.perf_counter()
            tallies = measure(part, checker, failures=args.failures and part == "dev")
            texts = tallies["all"].chains + tallies["all"].texts
            print(f"\n## {part}, {name} ({1000 * (time.perf_counter() - started) / texts:.3f} ms a text)\n")
            print("\n".join(f"| {label} | {value} |" for label, value in summary(tallies["all"])))
            if args.templates:
                for group, tally in sorted(tallies.items()):
                    print(f"| {group} | {tally.localised}/{tally.chains} | {tally.flagged}/{tally.checked} |")
    if args.references:
        references()
    if args.speed:
        speed()


if __name__ == "__main__":
    main()
