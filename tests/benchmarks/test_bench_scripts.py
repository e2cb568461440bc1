"""The benchmark scripts in a tiny form: the rows have the agreed form, the table is what results.json says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import evaluation, gpu, growth, loss, run, step
from benchmarks.common import Seconds, exponent, row, seconds_row
from opsd_train import cost

ROOT = Path(__file__).parent.parent.parent
LENGTHS = cost.Lengths(question=20, reference=30, completion=24)
KEYS = {"name", "ratio", "ours", "other", "unit", "better", "spread", "floor", "shape"}
NAMES = {
    "loss_memory_vs_naive", "loss_time_vs_naive", "purified_extra_vs_two_passes", "purified_step_vs_standard",
    "step_vs_trl_sdft", "sampling_seconds_vs_transformers_generate", "grading_seconds_vs_lm_eval",
}  # fmt: skip


def check(rows, *names):
    assert {r["name"] for r in rows} >= set(names)
    for r in rows:
        assert set(r) >= KEYS, r["name"]
        assert r["other"] == 0 or math.isclose(r["ratio"], r["ours"] / r["other"])
        assert r["spread"] is None or r["spread"][0] <= r["ratio"] * (1 + 1e-9)
    json.dumps(rows)


def test_a_row_is_the_ratio_of_medians_with_the_spread_of_rounds():
    found = row("x", [1.0, 2.0, 9.0], [2.0, 4.0, 6.0], "s", floor=None, shape="")
    assert (found["ratio"], found["spread"]) == (0.5, [0.5, 1.5])
    found = seconds_row("x", [Seconds(4.0, 1.0)], [Seconds(2.0, 2.0)], floor=None, shape="")
    assert (found["ratio"], found["wall_ratio"]) == (0.5, 2.0)


def test_fitted_power():
    assert math.isclose(exponent([1, 2, 4, 8], [3 * n**1.5 for n in (1, 2, 4, 8)]), 1.5)


def test_every_side_of_the_loss_computes_the_same():
    found = {side: loss.measure(side, "purified", (16, 2048, 32), dtype="float32", threads=1) for side in ("naive", "ours")}
    assert math.isclose(found["naive"]["loss"], found["ours"]["loss"], rel_tol=1e-5)
    assert math.isclose(found["naive"]["grad_norm"], found["ours"]["grad_norm"], rel_tol=1e-5)
    assert found["ours"]["bytes"] >= 0 and loss.floor_of({}, "purified", (16, 2048, 32))["bytes"] == 4 * (16 * 32 + 4 * 2048)


def test_step_rows(monkeypatch):
    monkeypatch.setitem(step.CASES, "testbed", {**step.CASES["testbed"], "micro": 4})
    rows = step.rows_of("testbed", quick=True)
    check(rows, "purified_extra_vs_two_passes", "purified_step_vs_standard", "purified_step_vs_standard_without_rollouts")
    assert rows[1]["parts"]["standard"]["frozen"] > 0


def test_evaluation_rows():
    check(evaluation.bootstrap_rows(quick=True, rounds=1), "bootstrap_seconds")


@pytest.mark.real
def test_grading_rows_against_lm_eval():
    check(evaluation.grading_rows(quick=True, rounds=1), "grading_seconds_vs_lm_eval")
    check(evaluation.pass_at_k_rows(quick=True, rounds=1), "pass_at_k_seconds_vs_lm_eval")


@pytest.mark.real
@pytest.mark.parametrize("script", run.SCRIPTS)
def test_every_script_runs_in_its_quick_form(script):
    check(run.rows_of(script, quick=True))


def test_growth_rows():
    check(growth.evaluation_rows(quick=True, rounds=1), "growth_evaluation_in_draws")


def test_results_and_table_are_one():
    """What is checked in: the agreed names, and a table that is made from the file."""
    document = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    check(document["rows"], *NAMES)
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert run.table(document).rstrip() in text, "write it with: python -m benchmarks.run --table"


def test_merging_replaces_the_rows_of_the_scripts_that_ran():
    old = [{"name": "a", "script": "loss"}, {"name": "b", "script": "step"}]
    new = [{"name": "c", "script": "loss"}]
    assert [r["name"] for r in run.merged(old, new)] == ["b", "c"]


def test_the_gpu_page_is_made_of_its_results_and_the_cost_sheet():
    text = (ROOT / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    document = json.loads((ROOT / "benchmarks" / "results-gpu.json").read_text(encoding="utf-8"))
    assert gpu.page(text, document) == text
    check(document["rows"])


def test_the_gpu_benchmark_times_real_trainer_steps(monkeypatch):
    """The whole script but for the device: a small shape on the CPU, whose clock and memory mean nothing here."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setitem(cost.SHAPES, "small", cost.Shape(64, 2, 4, 2, 16, 128, 512, tied=False))
    monkeypatch.setattr(cost, "Lengths", lambda **_: LENGTHS)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name, value in (("memory_allocated", 0), ("max_memory_allocated", 7), ("max_memory_reserved", 7)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = gpu.step_rows("small", precision="no", rollouts=4, rounds=1, gpu="h100", utilisation=0.35, sampled=True)
    found += gpu.loss_rows([(32, 512, 64)], rounds=2, rates={"bfloat16": 1e9})
    rows = {(row["name"], row["shape"].split()[0]): row for row in found}
    assert rows["gpu_purified_frozen_vs_sheet", "small"]["ours"] > 0
    assert {name for name, _ in rows} >= {"gpu_sampling_seconds_vs_sheet", "gpu_loss_time_vs_naive"}
    for target in ("purified", "standard"):
        assert rows["gpu_loss_gradient_error_vs_naive", target]["ratio"] < 0.7
        assert rows["gpu_loss_gradient_error_vs_naive_float32", target]["ratio"] == pytest.approx(1, abs=0.01)


def test_without_a_gpu_the_gpu_benchmark_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main([]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
