"""The commands that are killed, what they start from, and what must be equal when they have ended."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_eval import records
from opsd_eval.testbed import base_path

TRAINING = (
    "--optim.steps", 8, "--optim.batch_size", 4, "--optim.micro_batch_size", 4, "--run.checkpoint_every", 2,
    "--rollout.max_new_tokens", 24, "--data.limit", 64, "--run.diagnostics_every", 3, "--run.diagnostics_tokens", 64,
    "--method.teacher_mode", "ema",
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """One command: ``prepare`` fills a work folder, ``argv`` is the command there, ``digest`` what must be equal.

    ``keys`` lists what is reported done so far; whatever is in it after a kill must stay in it.
    """

    name: str
    module: str
    prepare: Callable[[Path], None]
    argv: Callable[[Path], list[Any]]
    digest: Callable[[Path], Any]
    keys: Callable[[Path], list[Any]] = lambda folder: []


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder, hidden ones left out."""
    files = (p for p in folder.rglob("*") if p.is_file())
    named = {p.relative_to(folder).as_posix(): p for p in files}
    return {name: sha(path) for name, path in sorted(named.items()) if not any(x.startswith(".") for x in name.split("/"))}


def lines(path: Path) -> list[str]:
    """The whole lines of a file, sorted; a torn last one is not reported done."""
    if not path.exists():
        return []
    return sorted(line for line in path.read_text().split("\n")[:-1] if line)


def keys_of(path: Path) -> list[Any]:
    return [(row["problem_id"], row["draw"]) for row in map(json.loads, lines(path))]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


# --- what commands start from -----------------------------------------------------------------------------


def made_up_rows(n: int, draws: int, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of a generic log, some of whose answers need the algebra system; one at a time, as there may be millions."""
    rng = random.Random(seed)
    for i in range(n):
        top, bottom = rng.randrange(1, 40), rng.randrange(2, 9)
        for draw in range(draws):
            answer = rng.choice([f"\\frac{{{2 * top}}}{{{2 * bottom}}}", f"{top}/{bottom}", str(top), "x"])
            words = " ".join(rng.choice(["so", "wait", "then", "check", f"{top} + {draw} = {top + draw}."])
                             for _ in range(60))  # fmt: skip
            yield {
                "problem_id": f"p{i:05d}", "question": f"What is {top} divided by {bottom}?",
                "answer": f"\\frac{{{top}}}{{{bottom}}}", "draw": draw, "text": f"{words} \\boxed{{{answer}}}",
            }  # fmt: skip


def write_log(path: Path, n: int, draws: int) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in made_up_rows(n, draws)))


def made_up_set(out: Path, n: int, draws: int, *, seed: int = 0) -> None:
    rows = list(made_up_rows(n, draws, seed=seed))
    records.write_run(out, records.RunRecord(name=out.name, kind="samples"))
    firsts = {row["problem_id"]: row for row in rows}
    records.write_problems(
        out, [records.Problem(k, r["question"], r["answer"], benchmark="made.up") for k, r in firsts.items()]
    )
    records.append_samples(out, [records.Sample(r["problem_id"], r["draw"], r["text"]) for r in rows])


def graded_sets(folder: Path, n: int = 60, draws: int = 4) -> None:
    from opsd_eval.grading import grade_set

    made_up_set(folder / "a", n, draws)
    shutil.copytree(folder / "a", folder / "b")
    rows = sorted(records.read_jsonl(folder / "a" / "samples.jsonl"), key=lambda row: (row["draw"], row["problem_id"]))
    turned = [{**row, "draw": draws - 1 - row["draw"]} for row in rows]
    (folder / "b" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    for name in ("a", "b"):
        grade_set(folder / name)


def measured_sets(folder: Path, n: int = 60, draws: int = 4) -> None:
    from opsd_eval.measure import measure_set

    graded_sets(folder, n, draws)
    for name in ("a", "b"):
        measure_set(folder / name, processes=1)


def nothing(folder: Path) -> None:
    """A command that starts from nothing."""


# --- what must be equal ------------------------------------------------------------------------------------


def training_digest(folder: Path) -> Any:
    out = folder / "run"
    curve = [without(row, "seconds") for row in records.read_jsonl(out / "train.jsonl")]
    planned = [f"step-{step:06d}" for step in (2, 4, 6, 8)]
    return {"curve": curve, **{name: tree(out / "checkpoints" / name) for name in planned}}


def sampling_digest(folder: Path) -> Any:
    return {"samples": lines(folder / "set" / "samples.jsonl"), "problems": sha(folder / "set" / "problems.jsonl")}


def grading_digest(folder: Path) -> Any:
    return {"grades": lines(folder / "set" / "grades.jsonl"), "samples": sha(folder / "set" / "samples.jsonl")}


def ingest_digest(folder: Path) -> Any:
    out = folder / "set"
    report = without(records.read_json(out / "ingest.json"), "finished", "n_new", "out")
    return {"ingest": report, "samples": sha(out / "samples.jsonl"), "problems": sha(out / "problems.jsonl")}


def measure_digest(folder: Path) -> Any:
    out = folder / "a"
    return {"csv": sha(out / "measures.csv"), **without(records.read_json(out / "estimates.json"), "files")}


def report_digest(folder: Path) -> Any:
    return tree(folder / "report")


def _sample(folder: Path) -> list[Any]:
    return ["sample", base_path("hunch_r10", 0), "testbed.hunch_r10.id", "--n", 8, "--limit", 60, "--batch-size", 8,
            "--max-new-tokens", 64, "--out", folder / "set"]  # fmt: skip


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "training", "opsd_train.cli", nothing,
            lambda f: ["run", "testbed", *TRAINING, "--out", f / "run", "--resume"], training_digest,
        ),
        Scenario(
            "sampling", "opsd_eval.cli", nothing, _sample, sampling_digest,
            lambda f: keys_of(f / "set" / "samples.jsonl"),
        ),
        Scenario(
            "grading", "opsd_eval.cli", lambda f: made_up_set(f / "set", 260, 8),
            lambda f: ["grade", f / "set"], grading_digest,
            lambda f: keys_of(f / "set" / "grades.jsonl"),
        ),
        Scenario(
            "ingest", "opsd_eval.cli", lambda f: write_log(f / "log.jsonl", 400, 8),
            lambda f: ["ingest", f / "log.jsonl", "--out", f / "set", "--format", "generic"], ingest_digest,
            lambda f: keys_of(f / "set" / "samples.jsonl"),
        ),
        Scenario(
            "measure", "opsd_eval.cli", graded_sets, lambda f: ["measure", f / "a", "--processes", 1], measure_digest,
        ),
        Scenario(
            "report", "opsd_eval.cli", measured_sets, lambda f: ["report", f / "a", f / "b", "--out", f / "report"],
            report_digest,
        ),
    )
}  # fmt: skip
