"""``opsd-eval audit``: is there anything in these samples that would make the numbers meaningless?

Look before measuring. A server with a constant seed looks exactly like a model that collapsed to one answer; a log
whose reasoning was stripped looks like a model that stopped hedging; a truncated run looks like wrong answers. Every
finding says what was seen, what it means, and what to do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opsd_eval.visible import visible

LEVELS = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that was seen: ``level`` is ``error`` (do not use the numbers), ``warning`` or ``info``."""

    set: str
    check: str
    level: str
    message: str
    meaning: str
    fix: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.level.upper():8s}{self.check}: {self.message}", f"        means: {self.meaning}",
                 f"        do:    {self.fix}"]
        if self.examples:
            lines.append(f"        e.g.:  {', '.join(self.examples)}")
        return "\n".join(lines)


def audit(sets: Sequence[Path | str]) -> list[Finding]:
    """All findings: of each set by itself, then of each further set against the first; worst first within a set."""
    from opsd_eval.audit_advice import finding
    from opsd_eval.audit_checks import CHECKS
    from opsd_eval.audit_pairs import PAIR_CHECKS
    from opsd_eval.audit_scan import scan

    scans, findings = [], []
    for folder in sets:
        try:
            scans.append(scan(Path(folder)))
        except ValueError as error:
            findings.append(finding(str(folder), "unreadable", "error", str(error)))
    for one in scans:
        findings += _worst_first([finding for check in CHECKS for finding in check(one)])
    for other in scans[1:]:
        findings += _worst_first([finding for check in PAIR_CHECKS for finding in check(scans[0], other)])
    return findings


def _worst_first(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: LEVELS.index(f.level))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval audit``."""
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="sample sets; further ones are compared "
                        "with the first")  # fmt: skip
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]} and nothing else')


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 when one of them is an error, else 0."""
    from opsd_eval.records import dumps

    findings = audit(args.sets)
    if args.json:
        print(dumps({"rows": [asdict(f) for f in findings]}))
    else:
        print(visible(as_text(findings, [str(s) for s in args.sets])))
    return int(any(f.level == "error" for f in findings))


def as_text(findings: Sequence[Finding], sets: Sequence[str]) -> str:
    """The findings as text, under the set they belong to."""
    parts = []
    for name in dict.fromkeys([*sets, *(f.set for f in findings)]):
        own = [f for f in findings if f.set == name]
        count = ", ".join(f"{n} {level}" for level in LEVELS if (n := sum(f.level == level for f in own)))
        parts.append("\n".join([f"{name}: {count or 'nothing found'}", *map(str, own)]))
    return "\n\n".join(parts)
