"""Standard and purified OPSD on a real pretrained model, on a CPU: train, sample, compare, plot, and ask the harness.

``python -m analyses.smollm2_run --out runs/smollm2`` trains SmolLM2-135M-Instruct with LoRA, once for each method, on
one-digit sums from reasoning-gym; vLLM samples the rollouts with the adapter of the step. Base and both adapters are
then sampled on all held-out problems and compared; the harness samples one adapter again, and its log is ingested.
Every stage skips what is done, so the command goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

from opsd_eval.jsonl import read_json, read_jsonl, write_json, write_text
from opsd_eval.whole import what_is_broken

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("standard", "purified")
# Primary is avg_relaxed@k: the model never writes a boxed answer, so the last number of a completion is read.
METRICS = ("avg_relaxed@k", "avg@k", "pass@k", "no_answer_rate", "truncation_rate", "marker_rate", "completion_tokens",
           "step_validity")  # fmt: skip
COMPARED = ("avg_relaxed@{k}", "avg@{k}", "pass@{k}", "no_answer_rate", "marker_rate", "completion_tokens")
SHOWN = ("cos_total_ref", "cos_total_it", "norm_ratio")


@dataclass(frozen=True)
class Settings:
    """Sizes of one run."""

    out: Path
    model: Path
    benchmark: str
    engine: str
    steps: int
    batch_size: int
    train_problems: int
    problems: int
    draws: int
    max_new_tokens: int
    lr: float
    temperature: float

    def checkpoint(self, arm: str) -> Path:
        """The adapter that is judged: the last step's, fixed in advance."""
        return self.out / arm / "checkpoints" / f"step-{self.steps:06d}"


def train(settings: Settings, arm: str) -> None:
    """Train one method in a process of its own, going on from its newest checkpoint."""
    if what_is_broken(settings.checkpoint(arm)) is None:
        return
    run = settings.out / arm
    overrides = {
        "model.path": settings.model, "data.benchmark": settings.benchmark, "data.limit": settings.train_problems,
        "rollout.engine": settings.engine, "rollout.max_new_tokens": settings.max_new_tokens, "method.target": arm,
        "rollout.temperature": settings.temperature,
        "optim.steps": settings.steps, "optim.batch_size": settings.batch_size, "optim.lr": settings.lr,
        "run.checkpoint_every": 5,
    }  # fmt: skip
    words = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    _python("opsd_train.cli", "run", "smollm2_cpu", "--out", str(run), "--resume", *words)


def evaluate(settings: Settings) -> None:
    """Sample base and both adapters on the same held-out problems, all with the transformers engine.

    On a CPU its loop for small models, which merges the adapter, is faster than vLLM's build.
    """
    from opsd_eval.benchmarks import load_benchmark
    from opsd_eval.engines import Sampling, load_engine
    from opsd_eval.records import new_run_record
    from opsd_eval.sampling import model_record, sample_benchmark

    problems = load_benchmark(settings.benchmark, limit=settings.problems, split="test")
    for arm in ("base", *ARMS):
        adapter = None if arm == "base" else settings.checkpoint(arm)
        engine: Any = load_engine("transformers", settings.model, adapter=adapter)
        run = new_run_record(
            arm, "samples", model=model_record(settings.model, adapter),
            config={"benchmark": settings.benchmark, "split": "test", "engine": "transformers"},
        )  # fmt: skip
        sampling = Sampling(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
        sample_benchmark(
            engine, problems, n=settings.draws, sampling=sampling,
            out=settings.out / "sets" / arm, run=run, tokenizer=engine.tokenizer,
        )  # fmt: skip


def speed(settings: Settings) -> dict[str, Any]:
    """Rollouts by vLLM against its own ``LLM.generate`` and transformers' ``generate``; nothing without vLLM."""
    if settings.engine != "vllm":
        return {}
    done = settings.out / "speed.json"
    if not done.exists():
        model = str(settings.model.resolve())
        found = _python("benchmarks.sampling", "--case", "rollouts", "--rounds", "2", "--model", model, read=True)
        write_json(done, {row["name"]: row for row in json.loads(found.splitlines()[-1])})
    return read_json(done)


def compare(settings: Settings) -> str:
    """Levels with intervals, and paired differences from base, as text."""
    from opsd_eval.compare import compare_sets
    from opsd_eval.grading import grade_set
    from opsd_eval.measure import format_rows, measure_set

    sets, parts = settings.out / "sets", []
    for arm in ("base", *ARMS):
        grade_set(sets / arm)
        measure_set(sets / arm, metrics=list(METRICS))
        stored = read_json(sets / arm / "estimates.json")["rows"]  # where null stands for undefined
        rows = [{key: math.nan if value is None else value for key, value in row.items()} for row in stored]
        parts += [f"{arm}:", format_rows(rows), ""]
    for a, b in (("base", "standard"), ("base", "purified"), ("standard", "purified")):
        found = compare_sets(sets / a, sets / b, metrics=[name.format(k=settings.draws) for name in COMPARED])
        found.to_csv(sets / f"{a}_{b}.csv", index=False)
        parts += [f"{b} - {a}:", found[["metric", "difference", "low", "high", "p_value", "verdict"]].to_string(), ""]
    return "\n".join(parts)


def plot(settings: Settings) -> Path:
    """Draw loss, KL from base and the decomposition over the steps of both runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.8), layout="constrained")
    panels = figure.subplots(1, 5)
    for arm in ARMS:
        rows = list(read_jsonl(settings.out / arm / "train.jsonl"))
        for panel, key in zip(panels, ("loss", "kl_base"), strict=False):
            panel.plot([row["step"] for row in rows], [row[key] for row in rows], label=arm)
            panel.set_title(key)
        seen = [row for row in rows if "diagnostics" in row]
        for panel, key in zip(panels[2:], SHOWN, strict=True):
            panel.plot([r["step"] for r in seen], [r["diagnostics"][f"{key}_plain"] for r in seen], "o-", label=arm)
            panel.set_title(f"{key} (plain)")
    for panel in panels:
        panel.set_xlabel("step")
    panels[0].legend()
    figure.savefig(settings.out / "training.png", dpi=130)
    return settings.out / "training.png"


def harness(settings: Settings, arm: str) -> dict[str, float]:
    """The stock ``lm_eval`` command on an adapter and the same problems; its log must give the numbers it printed."""
    from opsd_eval.harness_tasks import SHIPPED

    out, task = settings.out / "harness" / arm, "opsd_rg_chain_sum"
    if not list(out.rglob("results_*.json")):
        arguments = f"pretrained={settings.model},peft={settings.checkpoint(arm)},dtype=float32"
        documents = {"benchmark": settings.benchmark, "problems": settings.problems}
        sampling = {"max_gen_toks": settings.max_new_tokens, "temperature": settings.temperature}
        _python(
            "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", task, "--include_path", str(SHIPPED),
            "--apply_chat_template", "--metadata", json.dumps(documents),
            "--gen_kwargs", json.dumps(sampling), "--batch_size", "64",
            "--device", "cpu", "--log_samples", "--output_path", str(out),
        )  # fmt: skip
    results = read_json(next(iter(out.rglob("results_*.json"))))["results"][task]
    numbers = {key.split(",")[0]: value for key, value in results.items() if "," in key}
    check_log(out, settings.out / "sets" / f"harness_{arm}", numbers)
    return numbers


def check_log(log: Path, folder: Path, numbers: Mapping[str, Any]) -> None:
    """Ingest the harness's sample log and stop unless it gives every number that the harness printed."""
    from opsd_eval.grading import grade_set
    from opsd_eval.ingest import ingest
    from opsd_eval.measure import measure_set

    names = [name for name in numbers if not name.endswith("_stderr") and name != "alias"]
    shutil.rmtree(folder, ignore_errors=True)
    ingest(log, folder)
    grade_set(folder)
    measure_set(folder, metrics=names)
    found = {row["metric"]: row["estimate"] for row in read_json(folder / "estimates.json")["rows"]}
    for name in names:
        mine, printed = (math.nan if value is None else float(value) for value in (found[name], numbers[name]))
        if not math.isclose(mine, printed, abs_tol=1e-9) and not (math.isnan(mine) and math.isnan(printed)):
            raise SystemExit(f"the harness printed {name} = {printed}, its log gives {mine}: {log}")


def _python(module: str, *arguments: str, read: bool = False) -> str:
    """Run a module of this environment, and return what it wrote if asked; a failure ends the script."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE if read else None, text=True, check=False,
                          cwd=ROOT if module.startswith("benchmarks.") else None)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"failed with exit code {done.returncode}: {' '.join(command)}")
    return done.stdout or ""


def _processor_seconds() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    return sum(use.ru_utime + use.ru_stime for use in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def parse(argv: Sequence[str] | None) -> Settings:
    """The settings of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.smollm2_run", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"), help="folder of the run (%(default)s)")
    parser.add_argument(
        "--model", type=Path, default=Path("runs/models/smollm2-135m-instruct"),
        help="where the unpacked model is or goes (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--benchmark", default="reasoning_gym.chain_sum.num_terms=0+num_digits=0?style=plain")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm", help="who samples (%(default)s)")
    sizes = {"steps": 24, "batch_size": 4, "train_problems": 100, "problems": 57, "draws": 8, "max_new_tokens": 48}
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="(default %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-4, help="learning rate (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.5, help="of rollouts and evaluation (%(default)s)")
    return Settings(**vars(parser.parse_args(argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    settings = parse(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from opsd_eval.smollm2 import smollm2_folder

    settings.out.mkdir(parents=True, exist_ok=True)
    spent = settings.out / "seconds.json"  # over all calls of the command
    summary: dict[str, Any] = {
        "settings": {k: str(v) for k, v in asdict(settings).items()},
        "seconds": read_json(spent) if spent.exists() else {},
    }

    def timed(name: str, work: Any) -> Any:
        print(f"== {name}", file=sys.stderr)
        start, processor = time.perf_counter(), _processor_seconds()
        try:
            return work()
        finally:
            before = summary["seconds"].get(name, {"wall": 0.0, "cpu": 0.0})
            now = {"wall": time.perf_counter() - start, "cpu": _processor_seconds() - processor}
            summary["seconds"][name] = {clock: round(before[clock] + now[clock], 1) for clock in now}
            write_json(spent, summary["seconds"])

    try:
        timed("model", lambda: smollm2_folder(settings.model))
    except ValueError as error:
        print(f"smollm2_run: {error}", file=sys.stderr)
        return 2
    for arm in ARMS:
        timed(f"train {arm}", lambda arm=arm: train(settings, arm))
    print(timed("plot", lambda: plot(settings)))
    timed("evaluate", lambda: evaluate(settings))
    text = timed("compare", lambda: compare(settings))
    print(text)
    write_text(settings.out / "comparison.txt", text)
    summary["harness"] = timed("harness", lambda: harness(settings, "purified"))
    summary["speed"] = timed("speed", lambda: speed(settings))
    write_json(settings.out / "summary.json", summary)
    print(f"{settings.out / 'summary.json'}: {json.dumps(summary['seconds'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
