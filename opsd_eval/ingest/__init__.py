"""Turn logs that other harnesses wrote into sample sets: ``opsd-eval ingest PATH --out SET``.

One adapter a file; :data:`FORMATS` lists them in the order in which they are tried. What a log does not say stays
null. A malformed entry is named (file, line, reason) and left out; ``--strict`` stops at the first. Running the same
ingest again adds only what is new; an output folder made from another source is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from opsd_eval.arms import shared_words
from opsd_eval.ingest import generic, inspect_ai, jsonl_lists, lighteval, lm_eval, nemo_skills, opsd_analysis
from opsd_eval.ingest.base import MALFORMED, Format, IngestLog, Source, merged
from opsd_eval.ingest.reading import SeveralTasks
from opsd_eval.ingest.writer import IngestReport, discard, write_set
from opsd_eval.names import lookup
from opsd_eval.visible import visible

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        lm_eval.FORMAT,
        inspect_ai.FORMAT,
        lighteval.FORMAT,
        nemo_skills.FORMAT,
        jsonl_lists.KIM,
        jsonl_lists.QWEN_MATH,
        opsd_analysis.FORMAT,
        generic.FORMAT,
    )
}

__all__ = ["FORMATS", "Format", "IngestReport", "add_arguments", "detect", "ingest", "run"]


def detect(path: Path | str) -> str:
    """Name of the first format that recognises the file or folder; none raises with the list of formats."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    for name, form in FORMATS.items():
        if form.matches(path):
            return name
    known = "\n".join(f"  {f.name}: {f.summary}" for f in FORMATS.values())
    raise ValueError(f"{path}: no format recognised. Choose one with --format, or convert to generic JSONL:\n{known}")


def ingest(
    path: Path | str, out: Path | str, *, form: str | None = None, task: str | None = None, all_tasks: bool = False,
    strict: bool = False,
) -> IngestReport:
    """Read a log and write (or complete) the sample set ``out``; returns counts and what was left out.

    ``task`` is one task, or a group that the log names; ``all_tasks`` takes every task as one set. Problems of several
    tasks say theirs in ``axes["task"]``.
    """
    path, log = Path(path), IngestLog(strict=strict)
    chosen = lookup("format", form or detect(path), FORMATS)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    try:
        source = _all_tasks(chosen, path) if all_tasks else chosen.open(path, task)
    except ValueError:
        raise
    except MALFORMED as error:
        raise ValueError(f"{path}: not laid out as {chosen.name}: {type(error).__name__}: {error}") from error
    if not source.files:
        raise ValueError(f"{path}: no file of format {chosen.name} in it")
    report = write_set(source, chosen.name, Path(out), log)
    if report.n_samples == 0:
        discard(Path(out))
        raise ValueError(f"{path}: not one sample could be read as {chosen.name}.\n{report}")
    return report


def _all_tasks(form: Format, path: Path) -> Source:
    """Every task of a log as one source, named by the words that the tasks' names share in front."""
    try:
        return form.open(path, None)
    except SeveralTasks as error:
        tasks = error.tasks
    return merged(shared_words(tasks) or "all tasks", {task: form.open(path, task) for task in tasks})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-eval ingest``."""
    listed = "\n".join(f"  {f.name:14s} {f.summary}\n{'':17s}fixture: {f.tested}" for f in FORMATS.values())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Turn a log of another harness into a sample set that grade, measure and report understand."
    table = f"formats, tried in this order:\n{listed}\n\ngeneric format:\n{generic.__doc__}"
    parser.epilog = f"{parser.epilog or ''}\n\n{table}"
    parser.add_argument("path", type=Path, metavar="PATH", help="log file, or a folder that holds one run")
    parser.add_argument("--out", type=Path, required=True, metavar="SET", help="folder of the sample set to write")
    parser.add_argument("--format", choices=[*FORMATS], help="do not guess the format")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--task", metavar="T", help="which task, if the log holds several; of lm-eval also a group")
    several.add_argument(
        "--all-tasks", action="store_true", help="all tasks as one set; each problem's axis 'task' is its own"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first malformed entry, do not leave it out")


def run(args: argparse.Namespace) -> int:
    """Run ``opsd-eval ingest``; the exit code is 0 also when malformed entries were left out (they are listed)."""
    report = ingest(
        args.path, args.out, form=args.format, task=args.task, all_tasks=args.all_tasks, strict=args.strict
    )
    print(visible(str(report)), file=sys.stderr)
    return 0
