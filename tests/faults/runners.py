"""Commands that work through processes of their own as scenarios: ablation, study, training in two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from analyses import ablation, ablation_config, cells
from opsd_eval import records
from tests.faults.cold import Cold
from tests.faults.scenarios import TRAINING, Scenario, lines, nothing, sha, training_digest, tree, without

KEPT = ("step-000001", "step-000002")  # a stop by a signal may leave others
TINY_STUDY = "tiny"  # analyses/configs/study/tiny.yaml
TINY_ABLATION: dict[str, Any] = {
    "name": "tiny", "worlds": {"hunch_r10": {"base_seeds": [0]}}, "train_seeds": [1], "recipe": "testbed",
    "arms": {"standard": {"method.target": "standard"}, "purified": {"method.target": "purified"}},
    "train": {"optim.batch_size": 4, "optim.micro_batch_size": 4, "data.limit": 8, "run.diagnostics_every": 1,
              "rollout.max_new_tokens": 24},
    "evaluate_steps": [1, 2], "in_distribution": "id", "out_of_distribution": ["longer"], "n_problems": 4, "draws": 2,
    "sampling": {"temperature": 1.0, "max_new_tokens": 24}, "primary": ["avg@2"], "margins": {"avg@2": 0.05},
    "gap_metrics": ["avg@2"], "report_metrics": [],
}  # fmt: skip


def write_config(folder: Path) -> None:
    records.write_json(folder / "tiny.yaml", TINY_ABLATION)  # JSON is YAML


def runs_digest(study: Path) -> dict[str, Any]:
    """Loss curves, checkpoints and sample sets of every run below a study's folder."""
    found: dict[str, Any] = {}
    for log in study.glob("*/train.jsonl"):
        found[f"{log.parent.name} curve"] = [without(row, "seconds") for row in records.read_jsonl(log)]
        found[f"{log.parent.name} checkpoints"] = {
            name: digest for name, digest in tree(log.parent / "checkpoints").items() if name.split("/")[0] in KEPT
        }
    for run in study.glob("*/eval/*/*/run.json"):
        place = run.parent.relative_to(study).as_posix()
        for name in ("samples.jsonl", "grades.jsonl"):
            found[f"{place} {name}"] = lines(run.parent / name)
        found[f"{place} tables"] = [sha(path) for path in sorted(run.parent.glob("*.csv"))]
        found[f"{place} estimates"] = without(records.read_json(run.parent / "estimates.json"), "files")
    return found


def ablation_digest(folder: Path) -> Any:
    study = folder / "runs" / "tiny"
    assert ablation.plan(ablation_config.parse_config(TINY_ABLATION), study) == [], "nothing is left to do"
    report = tree(study / "report")
    del report["tables/training.csv"]  # the loss curves, with the seconds they took
    return {**runs_digest(study), **report}


def study_digest(folder: Path) -> Any:
    out, study = folder / "results" / "tiny", folder / "runs" / "tiny"
    found = {path.name: without(cells.read_record(path), "seconds", "started", "finished") for path in out.glob("cells/*.gz")}
    assert len(found) == 3 and not (out / "failures").exists()
    return {**runs_digest(study), **found, "rows": sha(out / "rows.csv")}


def reported_done(folder: Path) -> list[Any]:
    """Every (file, line) of samples and grades that is whole."""
    return [
        (path.relative_to(folder).as_posix(), line)
        for name in ("samples.jsonl", "grades.jsonl") for path in folder.rglob(name) for line in lines(path)
    ]  # fmt: skip


RUNNERS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "ablation", "analyses.ablation", write_config,
            lambda f: ["--config", f / "tiny.yaml", "--runs", f / "runs", "--jobs", 2], ablation_digest, reported_done,
        ),
        Scenario(
            "study", "analyses.study", nothing,
            lambda f: ["run", "--config", TINY_STUDY, "--runs", f / "runs", "--results", f / "results", "--jobs", 1],
            study_digest, reported_done,
        ),
        Scenario(
            "processes", "torch.distributed.run", nothing,
            lambda f: ["--standalone", "--nproc-per-node", 2, "-m", "opsd_train.cli", "run", "testbed", *TRAINING,
                       "--out", f / "run", "--resume"], training_digest,
        ),
    )
}  # fmt: skip


def starter(name: str, seed: int = 0) -> Cold:
    """How a runner is started; torch's launcher, killed alone, leaves its processes to finish, so it never is."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    return Cold(seed, ("worker", "all") if name == "processes" else ("command", "worker", "all"))
