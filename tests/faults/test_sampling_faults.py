"""Sampling, grading and measuring killed at random moments: no sample lost, none doubled, the same numbers."""

from __future__ import annotations

import time

import pytest

from opsd_eval.records import load_sample_set, read_jsonl
from tests.faults.killing import run, run_with_kills

BENCHMARK = "testbed.hunch_r10.id"


@pytest.fixture(scope="module")
def model():
    from opsd_eval.testbed import base_path

    return base_path("hunch_r10", 0)


def arguments(model, out):
    return ["sample", model, BENCHMARK, "--n", 8, "--limit", 60, "--batch-size", 8, "--max-new-tokens", 64, "--out", out]


@pytest.fixture(scope="module")
def timed(model, tmp_path_factory):
    """The uninterrupted set and the seconds that sampling took."""
    out = tmp_path_factory.mktemp("whole") / "set"
    started = time.perf_counter()
    run("opsd_eval.cli", *arguments(model, out))
    return out, time.perf_counter() - started


@pytest.fixture(scope="module")
def uninterrupted(timed):
    out = timed[0]
    run("opsd_eval.cli", "grade", out)
    run("opsd_eval.cli", "measure", out)
    return out


def samples(out):
    return {(s.problem_id, s.draw): s for group in load_sample_set(out).samples.values() for s in group}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_sampling_killed_anywhere_gives_the_same_set(model, timed, uninterrupted, tmp_path, seed):
    out = tmp_path / "set"
    met = run_with_kills(
        "opsd_eval.cli", *arguments(model, out), kills=3 if seed == 0 else 12,
        span=(0.4 * timed[1], 0.95 * timed[1]), seed=seed, first_when=out / "samples.jsonl",
    )
    assert met >= 1, "no signal met a live process: the test proved nothing"
    assert len(list(read_jsonl(out / "samples.jsonl"))) == 480
    run("opsd_eval.cli", "grade", out)
    assert samples(out) == samples(uninterrupted)
    run("opsd_eval.cli", "measure", out)
    assert (out / "measures.csv").read_bytes() == (uninterrupted / "measures.csv").read_bytes()


def test_grading_killed_anywhere_gives_the_same_grades(uninterrupted, tmp_path):
    import shutil

    out = tmp_path / "set"
    shutil.copytree(uninterrupted, out, ignore=shutil.ignore_patterns("grades.jsonl", "measures.csv", "estimates.json"))
    run_with_kills("opsd_eval.cli", "grade", out, kills=3, span=(0.3, 1.5), seed=3)
    keys = [(row["problem_id"], row["draw"]) for row in read_jsonl(out / "grades.jsonl")]
    assert len(keys) == len(set(keys)) == 480
    assert samples(out) == samples(uninterrupted)
