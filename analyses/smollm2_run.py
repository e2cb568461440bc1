"""Standard and purified OPSD on a real pretrained model, on a CPU: train, sample, compare, plot, and ask the harness.

``python -m analyses.smollm2_run --out runs/smollm2`` trains SmolLM2-135M-Instruct with LoRA, once for each method, on
one-digit sums from reasoning-gym; vLLM samples the rollouts with the adapter of the step. Base and both adapters are
then sampled on held-out problems and compared. Every stage skips what is done, so the command goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any

from opsd_eval.jsonl import read_json, read_jsonl, write_json, write_text
from opsd_eval.whole import what_is_broken

if TYPE_CHECKING:
    from opsd_eval.records import Problem

ARMS = ("standard", "purified")
METRICS = ("avg@k", "avg_relaxed@k", "pass@k", "no_answer_rate", "truncation_rate", "marker_rate", "completion_tokens",
           "step_validity", "distinct_answers")  # fmt: skip
COMPARED = ("avg@{k}", "avg_relaxed@{k}", "pass@{k}", "no_answer_rate", "marker_rate", "completion_tokens")
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
    harness_problems: int
    lr: float

    def checkpoint(self, arm: str) -> Path:
        """The adapter that is judged: the last step's, fixed in advance."""
        return self.out / arm / "checkpoints" / f"step-{self.steps:06d}"


def train(settings: Settings, arm: str) -> None:
    """Train one method in a process of its own, going on from its newest checkpoint."""
    if settings.checkpoint(arm).exists() and what_is_broken(settings.checkpoint(arm)) is None:
        return
    run = settings.out / arm
    overrides = {
        "model.path": settings.model, "data.benchmark": settings.benchmark, "data.limit": settings.train_problems,
        "rollout.engine": settings.engine, "rollout.max_new_tokens": settings.max_new_tokens, "method.target": arm,
        "optim.steps": settings.steps, "optim.batch_size": settings.batch_size, "optim.lr": settings.lr,
        "run.checkpoint_every": 5,
    }  # fmt: skip
    words = [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
    _python("opsd_train.cli", "run", "smollm2_cpu", "--out", str(run), "--resume", *words)


def evaluate(settings: Settings) -> None:
    """Sample base and both adapters on the same held-out problems, all with the transformers engine.

    With an adapter, vLLM's CPU build decodes 64 rows more slowly than transformers does.
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
        sample_benchmark(
            engine, problems, n=settings.draws, sampling=Sampling(max_new_tokens=settings.max_new_tokens),
            out=settings.out / "sets" / arm, run=run, tokenizer=engine.tokenizer,
        )  # fmt: skip


def speed(settings: Settings) -> dict[str, Any]:
    """The engines' speeds on the same prompts, without an adapter; nothing where vLLM is not used."""
    from opsd_eval.benchmarks import load_benchmark
    from opsd_eval.engines import load_engine

    done = settings.out / "speed.json"
    if settings.engine != "vllm":
        return {}
    if not done.exists():
        problems = load_benchmark(settings.benchmark, limit=settings.problems, split="test")
        options: dict[str, Any] = {"max_lora_rank": 16, "dtype": "float32", "max_model_len": 1024, "batch_size": 64}
        engine = load_engine("vllm", settings.model, adapters=True, **options)
        write_json(done, time_engines(settings, engine, problems))
    return read_json(done)


def time_engines(settings: Settings, engine: Any, problems: Sequence[Problem]) -> dict[str, Any]:
    """Completion tokens a second on the same requests, taking turns: our vLLM engine, vLLM's own loop, transformers.

    The ratios are of tokens a second of processor time: each works in this process, and other work on the machine then
    does not count.
    """
    from opsd_eval.engines import Request, Sampling, load_engine
    from opsd_eval.prompts import student_prompt_ids

    other: Any = load_engine("transformers", settings.model, batch_size=32)
    sampling = Sampling(max_new_tokens=64, seed=1)
    requests = [Request(p.problem_id, 0, tuple(student_prompt_ids(engine.tokenizer, p))) for p in problems[:32]]

    def own() -> list[Any]:
        parameters = [engine._parameters(request, sampling, False) for request in requests]
        rows = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        return [output.outputs[0] for output in engine.llm.generate(rows, parameters, use_tqdm=False)]

    ways = {
        "vllm": lambda: list(engine.generate(requests, sampling=sampling)),
        "vllm's own loop": own,
        "transformers": lambda: list(other.generate(requests, sampling=sampling)),
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(2):
        for name, way in ways.items():
            wall, own_time = time.perf_counter(), time.process_time()
            n_tokens = sum(len(row.token_ids) for row in way())
            seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - own_time}
            rounds[name].append({"tokens": n_tokens, **{clock: n_tokens / s for clock, s in seconds.items()}})
    mean = {name: sum(row["cpu"] for row in rows) / len(rows) for name, rows in rounds.items()}
    return {
        "requests": len(requests), "tokens a second": rounds,
        "vllm over transformers": mean["vllm"] / mean["transformers"],
        "vllm over its own loop": mean["vllm"] / mean["vllm's own loop"],
    }  # fmt: skip


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
    """The stock ``lm_eval`` command on an adapter, on the first of the problems that it was sampled on."""
    from opsd_eval.harness_tasks import SHIPPED

    out, task = settings.out / "harness" / arm, "opsd_rg_chain_sum"
    if not list(out.rglob("results_*.json")):
        arguments = f"pretrained={settings.model},peft={settings.checkpoint(arm)},dtype=float32"
        documents = {"benchmark": settings.benchmark, "problems": settings.harness_problems}
        _python(
            "lm_eval", "--model", "hf", "--model_args", arguments, "--tasks", task, "--include_path", str(SHIPPED),
            "--apply_chat_template", "--metadata", json.dumps(documents),
            "--gen_kwargs", json.dumps({"max_gen_toks": settings.max_new_tokens}), "--batch_size", "32",
            "--device", "cpu", "--log_samples", "--output_path", str(out),
        )  # fmt: skip
    results = read_json(next(iter(out.rglob("results_*.json"))))["results"][task]
    return {key.split(",")[0]: value for key, value in results.items() if "," in key}


def _python(module: str, *arguments: str) -> None:
    """Run a module of this environment, its output shown; a failure ends the script with the command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, *arguments]
    if code := subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit(f"failed with exit code {code}: {' '.join(command)}")


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
    parser.add_argument("--benchmark", default="reasoning_gym.chain_sum.num_terms=0+num_digits=0")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm", help="who samples (%(default)s)")
    sizes = {"steps": 20, "batch_size": 4, "train_problems": 80, "problems": 24, "draws": 8, "max_new_tokens": 96,
             "harness_problems": 5}  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="(default %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-4, help="learning rate (default %(default)s)")
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
    summary["speed"] = timed("speed", lambda: speed(settings))
    text = timed("compare", lambda: compare(settings))
    print(text)
    write_text(settings.out / "comparison.txt", text)
    summary["harness"] = timed("harness", lambda: harness(settings, "purified"))
    write_json(settings.out / "summary.json", summary)
    print(f"{settings.out / 'summary.json'}: {json.dumps(summary['seconds'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
