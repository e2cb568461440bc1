"""Run every benchmark that prints JSON rows and write ``benchmarks/results.json``.

Each row is a ratio from one run, both sides in turns: {name, ratio, ours, other, unit, better, spread, floor, shape},
ratio = ours ÷ other. ``python -m benchmarks.run --only loss`` runs one of them and keeps the other rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = {"loss": ("loss.py",), "sampling": ("sampling.py",)}


def machine() -> str:
    """Processor and cores, as the operating system names them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, no GPU"


def rows_of(script: str) -> list[dict]:
    """The JSON rows that one script prints; its progress goes to standard error."""
    done = subprocess.run([sys.executable, str(HERE / script)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Run, merge with the rows of benchmarks left out, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(SCRIPTS), action="append", help="run this one (may be repeated)")
    arguments = parser.parse_args()
    out = HERE / "results.json"
    old = json.loads(out.read_text())["rows"] if out.exists() else []
    chosen = arguments.only or [name for name in SCRIPTS if (HERE / SCRIPTS[name][0]).exists()]
    new = [row for name in chosen for script in SCRIPTS[name] for row in rows_of(script)]
    key = {(row["name"], json.dumps(row.get("shape"))) for row in new}
    kept = [row for row in old if (row["name"], json.dumps(row.get("shape"))) not in key]
    out.write_text(json.dumps({"machine": machine(), "rows": kept + new}, indent=1) + "\n")
    for row in new:
        print(f"{row['name']:44} {row['ratio']:8.3f}  ({row['ours']} against {row['other']} {row['unit']})")


if __name__ == "__main__":
    main()
