"""The real lm-eval command on our tasks: prompts, numbers and logs agree with what we compute offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_eval import harness_tasks
from opsd_eval.measure import measure_set
from opsd_eval.records import RunRecord, Sample, append_samples, write_problems, write_run

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
TASK = "opsd_testbed_hunch_r10_id"
N, K = 6, 8


def lm_eval(*arguments, module="lm_eval", out):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable, "-m", module, *arguments, "--include_path", str(harness_tasks.SHIPPED), "--tasks", TASK,
        "--metadata", json.dumps({"problems": N}), "--log_samples", "--output_path", str(out), "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next(Path(out).rglob("results_*.json")).read_text())["results"][TASK]
    return {key.split(",")[0]: value for key, value in results.items() if "," in key}, done.stdout


@pytest.fixture(scope="module")
def base():
    from opsd_eval.testbed import base_path

    return base_path("hunch_r10", 0)


@pytest.fixture(scope="module")
def stock(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("stock")
    numbers, printed = lm_eval(
        "--model", "hf", "--model_args", f"pretrained={base},dtype=float32", "--apply_chat_template",
        "--batch_size", "48", out=out,
    )  # fmt: skip
    return out, numbers, printed


def estimates(folder):
    rows = json.loads((folder / "estimates.json").read_text())
    rows = rows["rows"] if isinstance(rows, dict) else rows
    return {row["metric"]: row for row in rows}


def test_printed_table_has_an_error_bar_for_every_metric(stock):
    _, numbers, printed = stock
    assert numbers["avg@8"] > 0.3  # the shipped base solves most of them: 0 would mean the prompt is wrong
    assert "N/A" not in printed
    assert numbers["avg@8_stderr"] > 0


def test_the_logged_samples_ingest_to_the_same_numbers(stock, tmp_path):
    from opsd_eval.cli import main

    out, numbers, _ = stock
    assert main(["ingest", str(out), "--out", str(tmp_path / "set")]) == 0
    assert main(["grade", str(tmp_path / "set")]) == 0
    names = [name for name in numbers if not name.endswith("_stderr")]
    measure_set(tmp_path / "set", metrics=names)
    offline = estimates(tmp_path / "set")
    for name in names:
        assert offline[name]["estimate"] == pytest.approx(numbers[name], abs=1e-9, nan_ok=True), name


def test_replayed_samples_score_the_same_in_the_harness(tmp_path, base):
    from opsd_eval.benchmarks import load_benchmark
    from opsd_eval.cli import main

    folder = tmp_path / "set"
    problems = load_benchmark("testbed.hunch_r10.id", limit=N)
    texts = [r"2 + 3 = 5 ; \boxed{%s}", r"wait 2 + 3 = 6 ; \boxed{6}", "no box for %s"]
    write_run(folder, RunRecord(name="replayed", kind="sample"))
    write_problems(folder, problems)
    append_samples(folder, [
        Sample(p.problem_id, d, text=texts[(i + d) % 3].replace("%s", str(p.answer)), n_tokens=None)
        for i, p in enumerate(problems) for d in range(K)
    ])  # fmt: skip
    numbers, _ = lm_eval(
        "--model", "opsd-replay", "--model_args", f"set={folder}", module="opsd_eval.harness_replay",
        out=tmp_path / "out",
    )  # fmt: skip
    assert main(["grade", str(folder)]) == 0
    names = [name for name in numbers if not name.endswith("_stderr")]
    measure_set(folder, metrics=names)
    offline = estimates(folder)
    for name in names:
        assert offline[name]["estimate"] == pytest.approx(numbers[name], abs=1e-9, nan_ok=True), name


def test_the_harness_sends_the_prompt_ids_of_training_and_sampling(stock, base):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from opsd_eval.benchmarks import load_benchmark
    from opsd_eval.prompts import student_prompt_ids

    out, _, _ = stock
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = HFLM(pretrained=str(base), dtype="float32", device="cpu")
    rows = [json.loads(line) for line in next(out.rglob("samples_*.jsonl")).read_text().splitlines()]
    problems = {p.problem_id: p for p in load_benchmark("testbed.hunch_r10.id", limit=N)}
    assert len(rows) == N
    for row in rows:
        problem = problems[row["doc"]["problem_id"]]
        prompt = row["arguments"]["gen_args_0"]["arg_0"]
        assert model.tok_encode(prompt) == student_prompt_ids(tokenizer, problem)
