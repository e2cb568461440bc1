"""On-policy self-distillation, read from top to bottom.

For each step: take the next problems; the student samples one completion each; frozen passes score every token of
it after each role's prompt; target, divergence and weighting turn these into one number per token; the mean over all
valid tokens of the step, whatever the accumulation and the number of processes, is stepped on once.

What is not here: no method is named (they are data: ``opsd_train/config.py``), no text is tokenised (token ids come
from the engine), no distribution over a whole completion exists (``opsd_train/loss.py`` works in blocks).
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opsd_eval.records import Problem, read_jsonl
from opsd_eval.whole import what_is_broken, whole_folder
from opsd_train import checkpoint, rundir
from opsd_train.config import OptimConfig, TrainConfig, flatten, validate
from opsd_train.data import TrainingData, load_data
from opsd_train.diagnosis import decompose, engine_gap, pool, within_budget
from opsd_train.launch import as_launched, make_accelerator
from opsd_train.objective import frozen_batch, loss_method, student_loss
from opsd_train.policy import Policy, load_policy, load_tokenizer
from opsd_train.rollouts import Rollout, Sampler, micro_batches, step_rows
from opsd_train.sharding import gathered, shard
from opsd_train.steplog import Clock, StepSums, flat_numbers, progress_bar, show
from opsd_train.stopping import Health, Interrupted, Unhealthy, listening, together
from opsd_train.sync import make_sampler
from opsd_train.targets import get_target
from opsd_train.zero import Zero2


@dataclass
class Session:
    """What one run works with; everything that changes while training is in the policy and the optimiser."""

    config: TrainConfig
    out: Path
    accelerator: Any
    policy: Policy
    student: nn.Module  # the policy's model inside whatever accelerate wraps it with
    optimizer: Any
    data: TrainingData
    by_id: dict[str, Problem]
    sampler: Sampler
    zero: Zero2 | None = None  # DeepSpeed, where it was launched with it

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of one micro-batch; ``last``: no other follows in this step."""
        if self.zero:
            self.zero.backward(loss, last=last)
        else:
            self.accelerator.backward(loss)

    def update(self) -> None:
        """The optimiser's step, once the gradients were found sound."""
        self.zero.step() if self.zero else self.optimizer.step()


def train(config: TrainConfig, out: Path | str, *, resume: bool = False) -> None:
    """Train for exactly ``config.optim.steps`` optimiser steps into the run folder ``out``.

    ``resume`` goes on from the newest whole checkpoint, to the same numbers as an uninterrupted run; on an empty
    folder it starts from the beginning. Raises ``Interrupted`` after SIGTERM or Ctrl-C and ``Unhealthy`` when the
    numbers are not worth going on with, both with the state saved, and ``PeerLost`` when another process has ended.
    """
    config, out = as_launched(validate(config), os.environ), Path(out)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    accelerator = make_accelerator(config, out)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(rundir.locked(out))
        signals = stack.enter_context(listening())
        stack.enter_context(together(accelerator.num_processes, out))
        session, step = start(config, out, accelerator, resume=resume)
        stack.callback(session.sampler.close)
        health = Health(config.run)
        if step:
            for row in list(read_jsonl(out / "train.jsonl"))[-config.run.patience :]:
                health.check(row)
        bar = progress_bar(step, config.optim.steps, shown=accelerator.is_main_process)
        while step < config.optim.steps:
            rng = checkpoint.rng_state()
            row, fault = train_step(session, step)
            if fault:  # nothing was updated: the saved state is that of before this step
                save(session, step, rng)
                raise Unhealthy(f"step {step + 1}: {fault}; the state after step {step} is saved in {out}")
            step += 1
            log(session, row)
            show(bar, row)
            unwell = health.check(row)
            heard = int(accelerator.gather(torch.tensor([signals.received], device=accelerator.device)).max())
            if unwell or heard or step % config.run.checkpoint_every == 0 or step == config.optim.steps:
                save(session, step, checkpoint.rng_state())
            if unwell:
                raise Unhealthy(f"step {step}: {unwell}; state saved in {out}")
            if heard and step < config.optim.steps:
                raise Interrupted(heard, step)
        bar.close()
        for tracker in accelerator.trackers:
            tracker.finish()


def train_step(session: Session, step: int) -> tuple[dict[str, Any], str]:
    """Optimiser step ``step`` (from 0): its row of ``train.jsonl``, and a reason to stop or "".

    With a reason, nothing was updated.
    """
    config, policy, accelerator, clock = session.config, session.policy, session.accelerator, Clock()
    check_due = due(config.rollout.check_every, step)
    rows = step_rows(
        session.data.problems, step, batch_size=config.optim.batch_size, draws=config.optim.draws, seed=config.run.seed
    )
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    with accelerator.autocast(), gathered(policy):
        rollouts = session.sampler.sample(mine, session.data.prompts, step=step, logprobs=check_due)
    clock("rollout")

    sums = StepSums()
    sums.add_rollouts(rollouts, session.by_id)
    clock("other")
    diagnosis = diagnose_step(session, rollouts, step, check_engine=check_due)
    clock("diagnostics")

    n_tokens = accelerator.reduce(torch.tensor(float(sums.sums["n_tokens"]), device=accelerator.device), "sum").item()
    batches = micro_batches(rollouts, config.optim.micro_batch_size)
    roles = roles_to_score(config)
    policy.model.train()
    for i, few in enumerate(batches):
        with accelerator.autocast():
            batch = frozen_batch(policy, few, roles)
        clock("frozen")
        last = i == len(batches) - 1
        compute = student_loss(
            policy, batch, method=loss_method(config.method), weighting=config.method.weighting, n_tokens=n_tokens
        )
        with nullcontext() if last else accelerator.no_sync(session.student):
            loss, stats = session.student(compute)
            # processes average their gradients; the loss is already divided by the tokens of all of them
            session.backward(loss * accelerator.num_processes, last=last)
        sums.add_batch(loss, stats, few)
        clock("student")

    grad_norm = gradient_norm(session)
    row = {"step": step + 1, **sums.row(accelerator.reduce, device=accelerator.device), "grad_norm": grad_norm,
           "lr": learning_rate(step, config.optim), "problems": len({r.problem.problem_id for r in rows}),
           "processes": accelerator.num_processes, **diagnosis}  # fmt: skip
    fault = find_fault(session, row, sums.bad_problems, rollouts)
    if not fault:
        for group in session.optimizer.param_groups:
            group["lr"] = row["lr"]
        session.update()
        policy.update_ema()
    session.optimizer.zero_grad()
    clock("optimiser")
    return {**row, "seconds": clock.seconds()}, fault


def start(config: TrainConfig, out: Path, accelerator: Any, *, resume: bool) -> tuple[Session, int]:
    """Load everything, check it, and say how many steps are done; ``run.json`` is written before any work."""
    found = checkpoint.newest_whole(out)
    done = int(found.name.removeprefix("step-")) if found else 0
    if accelerator.is_main_process:
        rundir.claim(out, config, resume=resume, at_step=done)
        if found:
            rundir.check_origin(out, found, config)
            rundir.check_log(out, found, done)
    tokenizer = load_tokenizer(config.model)
    data = load_data(config, tokenizer)
    policy = load_policy(config.model, config.method, tokenizer, seed=config.run.seed, device=accelerator.device)
    seed_everything(config.run.seed, accelerator.process_index)
    if accelerator.is_main_process:
        rundir.write_record(out, config, policy.source)
        rundir.rewind_log(out, done)
    if found:
        checkpoint.load_model(found, policy)
    student, optimizer, zero = prepare(config, accelerator, policy)
    if found:
        checkpoint.load_state(found, policy, zero or optimizer.optimizer)
        checkpoint.load_rng(found, accelerator.process_index)
    if data.skipped:
        accelerator.print(f"{len(data.skipped)} problems skipped: longer than {config.data.max_prompt_tokens} tokens")
    if config.run.trackers:
        shown = {k: v if isinstance(v, int | float | str) else str(v) for k, v in flatten(config).items()}
        more = {"wandb": {"dir": str(out)}}  # which otherwise writes below the current folder
        accelerator.init_trackers(config.run.name or out.name, config=shown, init_kwargs=more)
    by_id = {p.problem_id: p for p in data.problems}
    sampler = make_sampler(config, policy, out)
    return Session(config, out, accelerator, policy, student, optimizer, data, by_id, sampler, zero), done


def prepare(config: TrainConfig, accelerator: Any, policy: Policy) -> tuple[Any, Any, Zero2 | None]:
    """Student and optimiser as the launch wants them: one copy a process, sharded, or inside DeepSpeed."""
    if config.run.sharding == "zero2":
        optimizer = make_optimizer(policy, config.optim)
        zero = Zero2(accelerator, policy, optimizer, max_grad_norm=config.optim.max_grad_norm)
        return zero.engine, zero.optimizer, zero
    if config.run.sharding == "full":
        shard(policy, accelerator.device)
        return policy.inside, accelerator.prepare(make_optimizer(policy, config.optim)), None
    student, optimizer = accelerator.prepare(policy.inside, make_optimizer(policy, config.optim))
    return student, optimizer, None


def make_optimizer(policy: Policy, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; its learning rate is set anew at every step."""
    return torch.optim.AdamW(
        policy.trained().values(), lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps,
        weight_decay=config.weight_decay,
    )  # fmt: skip


def learning_rate(step: int, config: OptimConfig) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then constant, or down to 0 after the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    left = 1.0 - (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}
    return config.lr * shapes[config.schedule]


def roles_to_score(config: TrainConfig) -> list[str]:
    """Frozen roles that every step scores: what the target needs, and the base where its distance is wanted."""
    needs = get_target(config.method.target).roles - {"student"}
    return sorted(needs | ({"base"} if config.run.base_kl == "every_step" else set()))


def due(every: int, step: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens in step ``step``, from 0."""
    return bool(every) and step % every == 0


def diagnose_step(session: Session, rollouts: Sequence[Rollout], step: int, *, check_engine: bool) -> dict[str, Any]:
    """The entries that only some steps have: ``diagnostics`` and ``engine_gap``."""
    config, accelerator = session.config, session.accelerator
    found: dict[str, Any] = {}
    if due(config.run.diagnostics_every, step) or (config.run.diagnostics_every and step == config.optim.steps - 1):
        few = within_budget(rollouts, max(1, config.run.diagnostics_tokens // accelerator.num_processes))
        with accelerator.autocast(), gathered(session.policy):
            mine = decompose(
                session.policy, few, method=loss_method(config.method), micro_batch=config.optim.micro_batch_size
            )
        found["diagnostics"] = pool(gather_object([mine]))
    if check_engine:
        with accelerator.autocast(), gathered(session.policy):
            gaps = gather_object([engine_gap(session.policy, rollouts)])
            found["engine_gap"] = max((gap for gap in gaps if not math.isnan(gap)), default=math.nan)
    return found


def gradient_norm(session: Session) -> float:
    """Global gradient norm before clipping; clips where asked (under DeepSpeed, its own step does)."""
    if session.zero:
        return session.zero.gradient_norm()
    limit = session.config.optim.max_grad_norm or math.inf
    norm = session.accelerator.clip_grad_norm_(list(session.policy.trained().values()), limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def find_fault(session: Session, row: dict[str, Any], bad: Sequence[str], rollouts: Sequence[Rollout]) -> str:
    """Why this step's update must not be made, naming problems, or "" when nothing is wrong."""
    finite = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
    if finite and row.get("engine_gap", 0.0) > session.config.rollout.check_bound:
        return (
            f"the engine's log-probabilities differ from the trainer's by {row['engine_gap']:.3g} nats a token, "
            f"allowed are {session.config.rollout.check_bound:g} (--rollout.check_bound): is its copy stale?"
        )
    if finite:
        return ""
    what = "gradient" if math.isfinite(row["loss"]) else "loss"
    mine = list(bad) if gather_object(list(bad)) else [r.problem_id for r in rollouts]
    named = sorted(set(gather_object(mine)))
    more = f" and {len(named) - 10} more" if len(named) > 10 else ""
    return f"the {what} is not finite on problems {', '.join(named[:10])}{more}"


def save(session: Session, step: int, rng: dict[str, Tensor]) -> None:
    """Write the checkpoint of ``step``, whole or not at all, unless a whole one is there."""
    accelerator = session.accelerator
    final = checkpoint.checkpoint_path(session.out, step)
    if what_is_broken(final) is None:
        return
    tensors = checkpoint.collect(session.policy, session.zero or session.optimizer.optimizer)
    random_states = gather_object([rng])
    if accelerator.is_main_process:
        rundir.sync_log(session.out)
        log_sha = rundir.log_sha256(session.out, step)
        manifest = {"step": step, "config_hash": session.config.hash, "log_sha256": log_sha}
        with whole_folder(final, manifest) as folder:
            checkpoint.write(folder, session.policy, tensors, random_states)
    accelerator.wait_for_everyone()


def log(session: Session, row: dict[str, Any]) -> None:
    """Write a step's row to ``train.jsonl`` and to the trackers."""
    if session.accelerator.is_main_process:
        rundir.log_step(session.out, row)
    if session.config.run.trackers:
        values = flat_numbers(row)
        session.accelerator.log(values, step=int(values.pop("step")))  # the trackers' own axis


def seed_everything(seed: int, process: int) -> None:
    """Seed the global generators, which only dropout reads; sampling has streams of its own."""
    random.seed(f"{seed}/{process}")
    torch.manual_seed(seed + process)
