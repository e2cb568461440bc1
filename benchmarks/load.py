"""Many samples through ingest, grade, measure and compare: seconds, processor seconds and peak memory of each verb.

``python -m benchmarks.load --samples 1000000 --runs 8`` writes made-up logs, takes each through the verbs as its own
process, compares every run with the first, and then repeats everything: the second time must do only what is new,
which is nothing. Prints one line a verb; ``--out`` writes the rows as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.scenarios import made_up_rows

DRAWS = 8


def write_logs(folder: Path, *, samples: int, runs: int) -> list[Path]:
    """One generic log a run; all runs answer the same questions."""
    paths = []
    for run in range(runs):
        path = folder / f"log-{run}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in made_up_rows(max(1, samples // runs // DRAWS), DRAWS):
                file.write(json.dumps({**row, "text": f"{row['text']} {run}"}) + "\n")
        paths.append(path)
    return paths


def timed(*arguments: object) -> dict[str, float]:
    """Run one verb to its end; wall seconds, processor seconds of it and its workers, peak MiB of the largest."""
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


def add(total: dict[str, float], row: dict[str, float]) -> dict[str, float]:
    """Seconds add up, the peak is the largest."""
    return {key: max(total.get(key, 0.0), value) if key == "peak_mib" else total.get(key, 0.0) + value
            for key, value in row.items()}  # fmt: skip


def measure_load(folder: Path, *, samples: int, runs: int) -> list[dict[str, Any]]:
    """Rows of (round, verb) with what they took over all runs."""
    logs, sets = write_logs(folder, samples=samples, runs=runs), [folder / f"set-{run}" for run in range(runs)]
    rows = []
    for turn in ("first", "second"):
        for verb in ("ingest", "grade", "measure", "compare"):
            total: dict[str, float] = {}
            for log, out in zip(logs, sets, strict=True):
                arguments = {
                    "ingest": ("ingest", log, "--out", out, "--format", "generic"), "grade": ("grade", out),
                    "measure": ("measure", out), "compare": ("compare", sets[0], out),
                }[verb]  # fmt: skip
                total = add(total, timed(*arguments))
            rows.append({"round": turn, "verb": verb, "samples": samples, "runs": runs, **total})
            took = "{seconds:.1f} s, {cpu_seconds:.1f} s of processor, peak {peak_mib:.0f} MiB".format(**total)
            print(f"{turn:6} {verb:8} {samples:>9,} samples in {runs} runs: {took}", flush=True)
    return rows


def main() -> int:
    """Command line: returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000, help="over all runs (default a million)")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--out", type=Path, help="write the rows there as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="opsd-load-") as folder:
        rows = measure_load(Path(folder), samples=args.samples, runs=args.runs)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
