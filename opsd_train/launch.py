"""How the processes of a run were launched, and what accelerate makes of it: devices, precision, trackers.

An accelerate config that asks for FSDP means ``--run.sharding full`` here, on GPUs and on CPUs alike: torch's own
``fully_shard`` (``opsd_train/sharding.py``) does what accelerate's plugin would do, and on CPUs, where accelerate 1.15
falls back to DDP without a word, it still shards.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opsd_eval.names import lookup
from opsd_train.config import TrainConfig, validate

# what `accelerate launch` sets: (value that this trainer can honour, what the value means)
_FSDP = {
    "FSDP_VERSION": ("2", "the version that torch's fully_shard implements"),
    "FSDP_OFFLOAD_PARAMS": ("false", "weights stay on the device"),
    "FSDP_RESHARD_AFTER_FORWARD": ("true", "a layer is gathered while it is used"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", "--model.gradient_checkpointing decides that"),
}


def as_launched(config: TrainConfig, environment: MutableMapping[str, str]) -> TrainConfig:
    """The config with an FSDP launch turned into ``run.sharding full``, and accelerate's own plugin switched off.

    A setting that ``fully_shard`` as used here does not follow is an error, never ignored.
    """
    if environment.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return config
    for name, (wanted, why) in _FSDP.items():
        if (given := environment.get(name, wanted)).lower() != wanted:
            raise ValueError(
                f"accelerate's {name.lower()} is {given}; this trainer shards with {wanted} only ({why}). Use "
                "configs/accelerate/fsdp.yaml, or set it there"
            )
    environment["ACCELERATE_USE_FSDP"] = "false"
    return validate(replace(config, run=replace(config.run, sharding="full")))


def check_trackers(names: Sequence[str]) -> None:
    """Refuse unknown trackers and missing packages, both of which accelerate leaves out without a word."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        lookup("tracker", name, {str(known): "" for known in LOGGER_TYPE_TO_CLASS})
        if name not in available:
            raise ValueError(f"--run.trackers names {name}, whose package is not installed: pip install {name}")


def make_accelerator(config: TrainConfig, out: Path) -> Any:
    """What accelerate makes of devices, processes, precision and trackers; refuses to run in fewer processes."""
    from accelerate import Accelerator

    for kind in ("DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true":
            raise ValueError(
                f"accelerate was launched with {kind}, whose sharded state this trainer can neither save without "
                "pickle nor resume exactly: launch with configs/accelerate/fsdp.yaml, which shards weights, gradients "
                "and optimiser state as ZeRO-3 does"
            )
    check_trackers(config.run.trackers)
    accelerator = Accelerator(
        mixed_precision=config.run.precision, log_with=list(config.run.trackers) or None, project_dir=str(out)
    )
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if asked != accelerator.num_processes:
        raise ValueError(
            f"{asked} processes were launched but accelerate runs {accelerator.num_processes}: on a machine without "
            "GPUs set ACCELERATE_USE_CPU=true"
        )
    if config.optim.batch_size % (config.optim.draws * asked):
        raise ValueError(
            f"--optim.batch_size {config.optim.batch_size} cannot be split evenly over {asked} processes of "
            f"{config.optim.draws} draws: make it a multiple of {config.optim.draws * asked}"
        )
    return accelerator
