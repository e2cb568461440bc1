"""How the processes of a run were launched, and what accelerate makes of it: devices, precision, trackers.

An accelerate config that asks for FSDP means ``--run.sharding full`` here, on GPUs and on CPUs alike: torch's own
``fully_shard`` (``opsd_train/sharding.py``) does what accelerate's plugin would do, and on CPUs, where accelerate 1.15
falls back to DDP without a word, it still shards. One that asks for DeepSpeed means ``--run.sharding zero2``
(``opsd_train/zero.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
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
_DEEPSPEED = {
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("2", "ZeRO-3 gathers the head for its own module only, and the loss reads it"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("none", "moments stay on the device"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("none", "weights stay on the device"),
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("none", "its settings would not be checked"),
    "ACCELERATE_GRADIENT_CLIPPING": ("auto", "--optim.max_grad_norm decides that"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--optim.micro_batch_size decides that"),
}


def as_launched(config: TrainConfig, environment: MutableMapping[str, str]) -> TrainConfig:
    """The config with what ``accelerate launch`` asked for as ``run.sharding``.

    Under FSDP accelerate's own plugin is switched off. A setting that would not be followed is an error.
    """
    if _asked(environment, "FSDP"):
        _require(environment, _FSDP, file="fsdp.yaml")
        environment["ACCELERATE_USE_FSDP"] = "false"
        return validate(replace(config, run=replace(config.run, sharding="full")))
    if _asked(environment, "DEEPSPEED"):
        _require(environment, _DEEPSPEED, file="deepspeed_zero2.yaml")
        return validate(replace(config, run=replace(config.run, sharding="zero2")))
    if _asked(environment, "MEGATRON_LM"):
        raise ValueError("Megatron-LM is not supported: launch with configs/accelerate/fsdp.yaml")
    if config.run.sharding == "zero2":
        raise ValueError(
            "--run.sharding zero2 is DeepSpeed's: launch with accelerate launch --config_file "
            "configs/accelerate/deepspeed_zero2.yaml"
        )
    return config


def _asked(environment: Mapping[str, str], kind: str) -> bool:
    return environment.get(f"ACCELERATE_USE_{kind}", "false").lower() == "true"


def _require(environment: Mapping[str, str], settings: Mapping[str, tuple[str, str]], *, file: str) -> None:
    for name, (wanted, why) in settings.items():
        if (given := environment.get(name, wanted)).lower() != wanted:
            raise ValueError(
                f"accelerate's {name.lower()} is {given}; this trainer takes {wanted} only ({why}). Use "
                f"configs/accelerate/{file}, or set it there"
            )


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

    check_trackers(config.run.trackers)
    accelerator = Accelerator(
        mixed_precision=config.run.precision, log_with=list(config.run.trackers) or None, project_dir=str(out),
        kwargs_handlers=_zero2_handlers() if config.run.sharding == "zero2" else None,
    )  # fmt: skip
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


def _zero2_handlers() -> list[Any]:
    """What accelerate must be told to start DeepSpeed; on CPUs it chooses no backend by itself."""
    import importlib.util

    import torch
    from accelerate.utils import InitProcessGroupKwargs

    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("launched with DeepSpeed, whose package is not installed: pip install 'opsd[deepspeed]'")
    if torch.cuda.is_available():
        return []
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled for minutes; gloo does the same
    os.environ["ACCELERATE_USE_CPU"] = "false"  # with which accelerate would run DDP without a word
    return [InitProcessGroupKwargs(backend="gloo")]
