"""Many samples through ingest, grade, measure and compare: processor seconds and peak memory of each verb.

    python -m benchmarks.load --samples 1000000 --runs 8 --folder load    goes on where an earlier start stopped
    python -m benchmarks.load --samples 1000000 --runs 8 --folder load --keep    and puts the rows where they are read

Writes made-up logs, takes each through the verbs as its own process, compares every run with the first, and then
repeats everything: the second time must do only what is new, which is nothing. Prints one line a verb. ``--keep``
replaces the rows of as many samples in ``benchmarks/load.json`` and writes the table in ``docs/reliability.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import between_marks
from tests.faults.scenarios import made_up_rows

ROOT = Path(__file__).parent.parent
KEPT, PAGE = ROOT / "benchmarks" / "load.json", ROOT / "docs" / "reliability.md"
DRAWS = 8
VERBS = ("ingest", "grade", "measure", "compare")


def write_logs(folder: Path, *, samples: int, runs: int) -> list[Path]:
    """One generic log a run, whole or not there; all runs answer the same questions."""
    paths = [folder / f"log-{run}.jsonl" for run in range(runs)]
    for run, path in enumerate(paths):
        if path.exists():
            continue
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            for row in made_up_rows(max(1, samples // runs // DRAWS), DRAWS):
                file.write(json.dumps({**row, "text": f"{row['text']} {run}"}) + "\n")
        part.replace(path)
    return paths


def timed(*arguments: object) -> dict[str, float]:
    """Run one verb to its end; wall seconds, processor seconds of it and its workers, peak MiB of the largest.

    The kernel counts this process's own memory as the start of the child's peak, so this one must stay small.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "opsd_eval.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        error = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{error.decode(errors='replace')[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - started, "cpu_seconds": cpu, "peak_mib": used.ru_maxrss / 1024}


def command(verb: str, folder: Path, run: int) -> tuple[object, ...]:
    """The verb's arguments for one run; compare takes every run against the first."""
    out = folder / f"set-{run}"
    return {
        "ingest": ("ingest", folder / f"log-{run}.jsonl", "--out", out, "--format", "generic"),
        "grade": ("grade", out), "measure": ("measure", out), "compare": ("compare", folder / "set-0", out),
    }[verb]  # fmt: skip


def measure_load(folder: Path, *, samples: int, runs: int) -> list[dict[str, Any]]:
    """Rows of (round, verb) with what they took over all runs; what is in ``done.jsonl`` is not run again.

    A verb that was stopped begins again from nothing, so that its row counts all of its work.
    """
    held, at = folder / "done.jsonl", {"samples": samples, "runs": runs}
    done = [json.loads(line) for line in held.read_text().splitlines()] if held.exists() else []
    if any(row[key] != value for row in done for key, value in at.items()):
        raise ValueError(f"{folder} holds another load: give its --samples and --runs, or another --folder")
    write_logs(folder, **at)
    rows = []
    for turn in ("first", "second"):
        for verb in VERBS:
            parts = [row for row in done if (row["round"], row["verb"]) == (turn, verb)]
            for run in range(len(parts), runs):
                if turn == "first":
                    forget(verb, folder / f"set-{run}")
                parts.append({"round": turn, "verb": verb, **at, **timed(*command(verb, folder, run))})
                with held.open("a") as file:
                    file.write(json.dumps(parts[-1]) + "\n")
            rows.append(summed(parts))
            print(line(rows[-1]), flush=True)
    return rows


def forget(verb: str, out: Path) -> None:
    """Remove what a stopped verb left of its work."""
    if verb == "ingest":
        shutil.rmtree(out, ignore_errors=True)
    for name in {"grade": ("grades.jsonl",), "measure": ("measures.csv", "estimates.json")}.get(verb, ()):
        (out / name).unlink(missing_ok=True)


def summed(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row for all runs of a verb: seconds add up, the peak is the largest."""
    total = {key: sum(part[key] for part in parts) for key in ("seconds", "cpu_seconds")}
    return {**parts[0], **total, "peak_mib": max(part["peak_mib"] for part in parts)}


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    return (
        f"{row['round']:6} {row['verb']:8} {row['samples']:>9,} samples in {row['runs']} runs: {row['seconds']:.1f} s, "
        f"{row['cpu_seconds']:.1f} s of processor, peak {row['peak_mib']:.0f} MiB"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each number of samples and round, a column a verb."""
    lines = ["| samples, runs | round | " + " | ".join(VERBS) + " | day |", "|---|---|" + "---|" * (len(VERBS) + 1)]
    for size, turn in sorted({(row["samples"], row["round"]) for row in rows}):
        found = {row["verb"]: row for row in rows if (row["samples"], row["round"]) == (size, turn)}
        cells = [f"{found[verb]['cpu_seconds']:,.3g} s, {found[verb]['peak_mib']:.0f} MiB" for verb in VERBS]
        one = found["ingest"]
        lines.append(f"| {size:,}, {one['runs']} | {turn} | " + " | ".join(cells) + f" | {one['day']} |")
    return "\n".join(lines)


def keep(rows: Sequence[dict[str, Any]]) -> None:
    """Replace the kept rows of as many samples, and write the table."""
    old = json.loads(KEPT.read_text()) if KEPT.exists() else []
    day = datetime.now(UTC).date().isoformat()
    kept = [row for row in old if row["samples"] != rows[0]["samples"]] + [{**row, "day": day} for row in rows]
    kept.sort(key=lambda row: row["samples"])
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(between_marks(PAGE.read_text(encoding="utf-8"), "load", table(kept)), encoding="utf-8")


def main() -> int:
    """Command line: returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000, help="over all runs (default a million)")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="work there and leave everything; default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="put the rows into benchmarks/load.json and the docs")
    args = parser.parse_args()
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory(prefix="opsd-load-") as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        rows = measure_load(Path(folder), samples=args.samples, runs=args.runs)
    if args.keep:
        keep(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
