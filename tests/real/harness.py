"""The stock ``lm_eval`` command, and its logs held against the numbers it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_eval import harness_tasks
from opsd_eval.measure import measure_set

ROOT = Path(__file__).parents[2]


def lm_eval(task, metadata, *arguments, out, module="lm_eval", **environment):
    """Run it; returns the task's numbers by metric name and what it printed."""
    command = [
        sys.executable, "-m", module, *arguments, "--include_path", str(harness_tasks.SHIPPED), "--tasks", task,
        "--metadata", json.dumps(metadata), "--log_samples", "--output_path", str(out),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next(Path(out).rglob("results_*.json")).read_text())["results"][task]
    return {key.split(",")[0]: value for key, value in results.items() if "," in key}, done.stdout


def logged(out):
    """The rows of its sample log."""
    return [json.loads(line) for line in next(Path(out).rglob("samples_*.jsonl")).read_text().splitlines()]


def assert_equal_offline(folder, numbers):
    """Grading and measuring the sample set gives every printed number."""
    from opsd_eval.cli import main

    assert main(["grade", str(folder)]) == 0
    names = [name for name in numbers if not name.endswith("_stderr")]
    assert len(names) >= 10
    measure_set(folder, metrics=names)
    rows = json.loads((folder / "estimates.json").read_text())["rows"]
    offline = {row["metric"]: row["estimate"] for row in rows}
    for name in names:
        assert (float("nan") if offline[name] is None else offline[name]) == pytest.approx(
            numbers[name], abs=1e-9, nan_ok=True
        ), name


def assert_ingests_to(numbers, out, folder):
    """The logged samples, ingested, give every printed number."""
    from opsd_eval.cli import main

    assert main(["ingest", str(out), "--out", str(folder)]) == 0
    assert_equal_offline(folder, numbers)
