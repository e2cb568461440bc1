"""``opsd-eval doctor``: read a harness configuration and name its pitfalls before GPU hours are spent.

Takes lm-eval task YAML, lm-eval run YAML, and command lines (``lm_eval``, ``lighteval``, ``inspect eval``, ``vllm
serve``, ``sglang``), as files or as text; several are read together, since a task and a server can each be right and be
wrong in combination. Nothing is run or imported: YAML is safe-loaded, ``!function`` stays a name. Facts are those of
lm_eval 0.4.13, lighteval 0.13.0, inspect_ai 0.3.285 and vLLM 0.32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opsd_eval.visible import visible

LEVELS = ("error", "warning", "info")


@dataclass(frozen=True)
class Pitfall:
    """One pitfall: ``where`` is file and line or the flag, ``level`` as in the audit."""

    where: str
    pitfall: str
    level: str
    message: str
    why: str
    fix: str

    def __str__(self) -> str:
        return (f"{self.level.upper():8s}{self.where}: {self.message} [{self.pitfall}]\n"
                f"        why: {self.why}\n        do:  {self.fix}")  # fmt: skip


def diagnose(sources: Sequence[str | Path]) -> list[Pitfall]:
    """Pitfalls of all configurations together, worst first; nothing readable in a source raises ``ValueError``."""
    from opsd_eval.doctor_checks import RUN_CHECKS, TASK_CHECKS
    from opsd_eval.doctor_read import read_sources
    from opsd_eval.doctor_servers import PROGRAM_CHECKS

    setup = read_sources(sources)
    found = [p for task in setup.tasks for check in TASK_CHECKS for p in check(task, setup)]
    found += [p for run in setup.runs for check in RUN_CHECKS for p in check(run, setup)]
    found += [p for command in setup.commands for p in PROGRAM_CHECKS[command.program](command)]
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda p: LEVELS.index(p.level))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval doctor``."""
    parser.add_argument("sources", nargs="+", metavar="FILE", help="lm-eval task or run YAML, a script with the "
                        "command, or the command itself in quotes; several are judged together")  # fmt: skip
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]} and nothing else')


def run(args: argparse.Namespace) -> int:
    """Print the pitfalls; exit code 1 when one of them is an error, else 0."""
    from opsd_eval.records import dumps

    pitfalls = diagnose(args.sources)
    if args.json:
        print(dumps({"rows": [asdict(p) for p in pitfalls]}))
    elif pitfalls:
        print(visible("\n".join(map(str, pitfalls))))
    else:
        print("no known pitfall found (this is no promise: look at a few samples, then run `opsd-eval audit`)")
    return int(any(p.level == "error" for p in pitfalls))
