"""Run the benchmarks, write ``benchmarks/results.json`` and the table in ``benchmarks/README.md``.

    python -m benchmarks.run                         all of them, one after the other
    python -m benchmarks.run --only loss --only step these, keeping the other rows
    python -m benchmarks.run --quick                 small sizes, a minute or two, to see that everything runs
    python -m benchmarks.run --resume                those without rows in results.json yet
    python -m benchmarks.run --table                 the table again from results.json

Each row is a ratio from one run, both sides in turns: {name, ratio, ours, other, unit, better, spread, floor, shape},
ratio = ours ÷ other. A script that fails is named at the end, keeps its old rows and makes the exit code 1. Results
are written after each script, so an interrupted run keeps what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import between_marks, number, rows_table

HERE = Path(__file__).parent
SCRIPTS = ("step", "trl_step", "sampling", "evaluation", "loss", "growth")


def machine() -> str:
    """Processor and cores, as the operating system names them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, no GPU"


def rows_of(script: str, *, quick: bool) -> list[dict[str, Any]]:
    """The JSON rows that one script prints; its progress goes to standard error."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *["--quick"] * quick]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}")
    return json.loads(done.stdout)


def table(document: Mapping[str, Any]) -> str:
    """Markdown: one line a row, grouped by script."""
    lines = [f"Measured on {document['machine']}.", ""]
    for script in dict.fromkeys(row["script"] for row in document["rows"]):
        lines += [f"**{script}**", "", *rows_table(row for row in document["rows"] if row["script"] == script)]
        lines.append("")
    return "\n".join(lines)


def parts_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where a step's seconds go, for every row that says so."""
    lines = []
    for row in rows:
        for side, parts in row.get("parts", {}).items():
            if isinstance(parts, Mapping):
                shown = ", ".join(f"{part} {seconds:.3g}" for part, seconds in parts.items() if seconds)
                lines.append(f"- `{row['name']}`, {side}: {shown}")
    return "\n".join(["Where the time goes (medians, in the row's unit):", "", *lines]) if lines else ""


def write_table(document: Mapping[str, Any], readme: Path) -> None:
    """Put the table between its marks."""
    body = "\n".join([table(document), parts_table(document["rows"])]).rstrip()
    readme.write_text(between_marks(readme.read_text(encoding="utf-8"), "table", body), encoding="utf-8")


def merged(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """New rows in place of the old ones of their scripts, scripts in order."""
    ran = {row["script"] for row in new}
    rows = [row for row in old if row["script"] not in ran] + list(new)
    return sorted(rows, key=lambda row: SCRIPTS.index(row["script"]))


def main() -> int:
    """Run, merge with the rows of benchmarks left out, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SCRIPTS, action="append", help="run this one (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="small sizes; writes results-quick.json, no table")
    parser.add_argument("--resume", action="store_true", help="only those that have no rows yet")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    arguments = parser.parse_args()
    out = HERE / ("results-quick.json" if arguments.quick else "results.json")
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    held = {row["script"] for row in rows} if arguments.resume else set()
    chosen = [] if arguments.table else [name for name in arguments.only or SCRIPTS if name not in held]
    failed, start = [], time.perf_counter()
    for place, script in enumerate(chosen, start=1):
        print(f"{script} ({place} of {len(chosen)}) after {time.perf_counter() - start:.0f} s", flush=True)
        try:
            new = [{**row, "script": script} for row in rows_of(script, quick=arguments.quick)]
        except (RuntimeError, json.JSONDecodeError) as error:
            failed.append(f"{script}: {error}")
            continue
        rows = merged(rows, new)
        out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
        for row in new:
            print(f"  {row['name']:46} {number(row['ratio']):>8}  ({number(row['ours'])} against "
                  f"{number(row['other'])} {row['unit']})", flush=True)  # fmt: skip
    if rows and not arguments.quick:
        write_table(json.loads(out.read_text(encoding="utf-8")), HERE / "README.md")
    print(f"{time.perf_counter() - start:.0f} s in all; rows in {out}")
    if failed:
        print("failed: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
