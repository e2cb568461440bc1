"""Runs in each of two processes: the runs that ``test_processes.py`` looks at."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from opsd_eval.startup import TRANSFORMERS, bring_in

bring_in(*TRANSFORMERS, "opsd_train.trainer")

from opsd_train import trainer  # noqa: E402
from opsd_train.config import TrainConfig, apply_overrides  # noqa: E402
from opsd_train.launch import as_launched  # noqa: E402


def silence_second_process(real):
    """A sampler that gives the second process nothing but empty completions."""

    def make(config, policy, out):
        sampler = real(config, policy, out)
        draw = sampler.sample

        def sample(rows, prompts, **options):
            import torch.distributed as dist

            found = draw(rows, prompts, **options)
            return found if dist.get_rank() == 0 else [replace(r, completion_ids=(), text="") for r in found]

        sampler.sample = sample
        return sampler

    return make


def look_at_shards(real, path):
    """A ``save`` that first writes down what this process holds of the model."""

    def save(session, step, rng):
        import torch.distributed as dist
        from torch.distributed.tensor import DTensor

        from opsd_train.sharding import local_share

        trained = list(session.policy.trained().values())
        optimizer = session.zero._zero.optimizer if session.zero else session.optimizer.optimizer
        moments = [s["exp_avg"] for s in optimizer.state.values()]
        held = sum((m.to_local() if isinstance(m, DTensor) else m).numel() for m in moments)
        row = {
            "rank": dist.get_rank(), "world": dist.get_world_size(), "share": local_share(session.policy.model),
            "sharded": all(isinstance(p, DTensor) for p in trained), "moments": held / sum(p.numel() for p in trained),
        }  # fmt: skip
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        real(session, step, rng)

    return save


def main(config_file: str, out: str) -> None:
    config, out = TrainConfig.from_dict(json.loads(Path(config_file).read_text())), Path(out)
    if as_launched(config, dict(os.environ)).run.sharding != "none":
        trainer.save = look_at_shards(trainer.save, out / "shards.jsonl")
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false")
    trainer.train(config, out / "whole")
    os.environ["ACCELERATE_USE_FSDP"] = asked  # which the first run switched off for accelerate
    config = as_launched(config, os.environ)

    real = trainer.train_step

    def dies(session, step):
        if step == 3:
            raise RuntimeError("dies")
        return real(session, step)

    trainer.train_step = dies
    try:
        trainer.train(config, out / "cut")
    except RuntimeError as error:
        assert str(error) == "dies"
    trainer.train_step = real
    trainer.train(config, out / "cut", resume=True)

    make = trainer.make_sampler
    trainer.make_sampler = silence_second_process(make)
    trainer.train(apply_overrides(config, ["--optim.steps", "1"]), out / "silent")
    trainer.make_sampler = make


if __name__ == "__main__":
    main(*sys.argv[1:])
