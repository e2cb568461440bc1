"""For all tests: a made-up study on disk, as the ablation leaves one, that needs no model."""

from __future__ import annotations

import atexit
import gc
import random
from pathlib import Path

import pytest

from opsd_eval import records

ACCURACY = {"base": 0.7, "standard": 0.25, "purified": 0.68}
MARKERS = {"base": 40.0, "standard": 8.0, "purified": 41.0}
OUTCOMES = ("loop", "truncated", "no_answer", "wrong")


def write_set(folder: Path, *, world="made_up", split="id", arm="base", n=12, draws=4, seed=0, step=0, text=None):
    """A graded and measured sample set of made-up completions; returns its folder."""
    rng = random.Random(f"{world}/{arm}/{split}/{seed}/{step}")
    problems = [
        records.Problem(f"{world}/{split}/{i:04d}", f"Q: {i} + 1 = ?", str(i + 1), benchmark=f"{world}.{split}",
                        split=split)
        for i in range(n)
    ]  # fmt: skip
    records.write_run(folder, records.new_run_record(f"{world}_{arm}", "samples", model={"path": "m", "step": step},
                                                     sampling={"temperature": 1.0}, seed=seed))  # fmt: skip
    records.write_problems(folder, problems)
    samples, grades, rows = [], [], ["problem_id,cluster,n,avg@4,pass@1,pass@2,pass@4,marker_rate,distinct_answers"]
    for problem in problems:
        right = [rng.random() < ACCURACY[arm] for _ in range(draws)]
        for draw, ok in enumerate(right):
            body = text or f"maybe {problem.answer} check wait \\boxed{{{problem.answer if ok else 7}}}"
            samples.append(records.Sample(problem.problem_id, draw, body, n_tokens=9, finish_reason="stop", seed=seed))
            grades.append({
                "problem_id": problem.problem_id, "draw": draw, "answer_strict": problem.answer if ok else "7",
                "answer_relaxed": problem.answer if ok else "7", "correct": ok, "correct_relaxed": ok,
                "outcome": "right" if ok else rng.choice(OUTCOMES),
            })  # fmt: skip
        c = sum(right)
        rate = MARKERS[arm] + rng.gauss(0, 4)
        rows.append(f"{problem.problem_id},,{draws},{c / draws},{c / draws},{min(1, 2 * c / draws)},{float(c > 0)},"
                    f"{rate:.3f},{'' if c == draws else 1 + draws - c}")  # fmt: skip
    records.append_samples(folder, samples)
    records.append_jsonl(folder / "grades.jsonl", grades)
    records.write_text(folder / "measures.csv", "\n".join(rows) + "\n")
    share = sum(g["correct"] for g in grades) / len(grades)
    records.write_json(folder / "estimates.json", {"draws": draws, "rows": [
        {"metric": "avg@4", "estimate": share, "low": share - 0.1, "high": share + 0.1, "method": "made up",
         "n_problems": n, "n_dropped": 0, "chance": 0.01},
    ]})  # fmt: skip
    return folder


def write_training(run: Path, *, arm: str, steps: int, seed: int) -> None:
    """A made-up ``train.jsonl``."""
    rng = random.Random(f"{arm}/{seed}")
    rows = []
    for step in range(1, steps + 1):
        far = (1 - 0.97**step) * (2.0 if arm == "standard" else 0.3)
        row = {
            "step": step, "loss": 0.4 * 0.98**step + rng.gauss(0, 0.02), "grad_norm": 1 + rng.random(),
            "lr": 3e-4, "kl_base": far, "entropy": 0.5, "marker_rate": MARKERS[arm] + rng.gauss(0, 2),
            "completion_tokens": 40 + rng.random(), "truncation_rate": 0.0,
        }  # fmt: skip
        if step % 5 == 0 or step == 1:
            row["diagnostics"] = {
                f"{name}_{variant}": rng.uniform(0, 1) for name in ("cos_total_ref", "cos_total_it", "norm_ratio")
                for variant in ("plain", "centred", "weighted", "topk")
            }  # fmt: skip
        rows.append(row)
    records.append_jsonl(run / "train.jsonl", rows)


def write_study(
    study: Path, *, worlds=("hunch_r10",), base_seeds=(0,), train_seeds=(1, 2), splits=("id", "longer"),
    steps=(10, 20), n=12, draws=4, text=None,
) -> Path:
    """A whole study folder: base, standard and purified, every split and step, with training logs."""
    for world in worlds:
        for base_seed in base_seeds:
            base = study / f"{world}_s{base_seed}_base"
            for split in splits:
                write_set(base / "eval" / f"testbed.{world}.{split}" / "step-000000", world=world, split=split, n=n,
                          draws=draws, seed=base_seed, text=text)  # fmt: skip
            for arm in ("standard", "purified"):
                for train_seed in train_seeds:
                    run = study / f"{world}_s{base_seed}_{arm}_t{train_seed}"
                    write_training(run, arm=arm, steps=steps[-1], seed=train_seed)
                    for step in steps:
                        for split in splits:
                            write_set(run / "eval" / f"testbed.{world}.{split}" / f"step-{step:06d}", world=world,
                                      split=split, arm=arm, n=n, draws=draws, seed=100 * base_seed + train_seed,
                                      step=step, text=text)  # fmt: skip
    return study


@pytest.fixture(scope="session")
def make_set():
    """:func:`write_set`."""
    return write_set


@pytest.fixture(scope="session")
def make_study():
    """:func:`write_study`."""
    return write_study


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector off what collecting imports (opsd_eval/startup.py): 20 s in place of 36 on a slow core."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)
