"""One training run as data: six frozen groups, overridden from a command line as ``--optim.lr 1e-4``.

Field comments are the documentation that ``opsd-train run --help`` prints.
"""

from __future__ import annotations

import functools
import hashlib
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from opsd_eval.names import lookup, unknown_name
from opsd_eval.records import dumps


def _doc(text: str, default: Any) -> Any:
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True)
class ModelConfig:
    """Which weights are trained, and how."""

    path: str = _doc("hub id, folder, or testbed:<world>_s<seed> for a shipped base", "")
    revision: str | None = _doc("hub revision; the resolved one is recorded at load", None)
    tuning: str = _doc("lora (frozen passes = adapter off) or full (a frozen copy is kept)", "lora")
    dtype: str = _doc("float32 or bfloat16: how the weights are held; LoRA weights are always float32", "bfloat16")
    lora_rank: int = _doc("rank of the LoRA update", 64)
    lora_alpha: int = _doc("LoRA scale: the update is multiplied by alpha / rank", 128)
    lora_dropout: float = _doc("dropout on the LoRA branch", 0.0)
    lora_targets: tuple[str, ...] = _doc("module names that get an adapter, or all-linear", ("all-linear",))
    gradient_checkpointing: bool = _doc("recompute activations in the backward pass", True)
    attention: str = _doc("attention implementation asked of transformers", "sdpa")
    chat_template: str | None = _doc("a Jinja file, for tokenizers that ship no chat template", None)
    trust_remote_code: bool = _doc("run Python code from the model's repository: only for code you have read", False)
    unverified: str = _doc("what about path and revision could not be checked when the recipe was written", "")


@dataclass(frozen=True)
class DataConfig:
    """Which problems, and how they are shown."""

    benchmark: str = _doc("testbed.<world>.train, reasoning_gym.<family>, jsonl:PATH?..., hf:NAME?...", "")
    split: str | None = _doc("split to train on; none = train for reasoning_gym, else what the name implies", None)
    limit: int = _doc("number of problems; 0 takes the benchmark's own number", 0)
    seed: int = _doc("seed of generated problems", 0)
    train_share: float = _doc("share of problems, by a hash of the question, that may be trained on", 1.0)
    max_prompt_tokens: int = _doc("longest prompt any role may have", 4096)
    too_long: str = _doc("error, or skip (counted) for problems with a longer prompt; nothing is cut", "error")
    student_thinking: bool | None = _doc("thinking switch of student and base; none = template's default", None)
    teacher_thinking: bool | None = _doc("thinking switch of teacher and reference-only teacher", None)
    unverified: str = _doc("what about the data could not be checked when the recipe was written", "")


@dataclass(frozen=True)
class RolloutConfig:
    """How the student's completions are sampled."""

    engine: str = _doc("transformers, vllm or server", "transformers")
    temperature: float = _doc("sampling temperature", 1.0)
    top_p: float = _doc("nucleus mass; 1 = off", 1.0)
    top_k: int = _doc("keep the k likeliest tokens; 0 = off", 0)
    max_new_tokens: int = _doc("longest completion", 1024)
    batch_size: int = _doc("rows generated at once", 64)
    server_url: str | None = _doc("address of a running server up to /v1 (server engine)", None)
    server_model: str | None = _doc("the base model's name on that server; none = model.path", None)
    gpu_memory_share: float = _doc("share of a GPU's memory that vLLM takes beside the trainer", 0.4)
    check_every: int = _doc("every so many steps compare the engine's and the trainer's log-probabilities; 0 = off", 0)
    check_bound: float = _doc("largest allowed mean absolute difference of the two, in nats", 0.1)


@dataclass(frozen=True)
class MethodConfig:
    """The four axes, and whose weights the teacher has."""

    target: str = _doc("how the frozen distributions combine; see opsd-train list", "purified")
    context: str = _doc("what the privileged roles read; see opsd-train list", "reference")
    divergence: str = _doc("forward_kl, reverse_kl or jsd", "jsd")
    weight_on_target: float = _doc("weight of the target in the mixture of the jsd, in (0, 1)", 0.5)
    clip: str = _doc("none, per_entry or per_token: what of the divergence is clipped from above", "none")
    clip_value: float = _doc("the bound of that clip, in nats", 0.05)
    weighting: str = _doc("weight of each token; see opsd-train list", "uniform")
    beta: float = _doc("strength of the anchor in tilted targets: larger stays closer to base", 1.0)
    clip_c: float = _doc("scale of the tanh on the centred log-ratio, in nats", 10.0)
    teacher_mode: str = _doc("frozen (initial weights), ema (of the student) or live (the student itself)", "frozen")
    ema_decay: float = _doc("ema <- decay * ema + (1 - decay) * student, once a step", 0.99)


@dataclass(frozen=True)
class OptimConfig:
    """Steps, batch and optimiser (AdamW)."""

    steps: int = _doc("optimiser steps; exact", 200)
    batch_size: int = _doc("rollouts in one optimiser step, over all processes", 32)
    draws: int = _doc("rollouts of one problem in a step", 1)
    micro_batch_size: int = _doc("rollouts scored in one pass; the rest is accumulation", 4)
    lr: float = _doc("peak learning rate", 5e-6)
    warmup_steps: int = _doc("steps of linear warm-up", 0)
    schedule: str = _doc("constant, linear or cosine (to zero after the last step)", "constant")
    weight_decay: float = _doc("AdamW's decoupled decay", 0.0)
    beta1: float = _doc("decay of the first moment", 0.9)
    beta2: float = _doc("decay of the second moment", 0.999)
    eps: float = _doc("added to the root of the second moment", 1e-8)
    max_grad_norm: float = _doc("gradient norm above which gradients are scaled down; 0 = off", 1.0)


@dataclass(frozen=True)
class RunConfig:
    """Seed, checkpoints, diagnostics and when to stop."""

    name: str = _doc("name in run.json and trackers; empty = the output folder's name", "")
    seed: int = _doc("seed of data order, sampling and initialisation", 0)
    precision: str = _doc("autocast of the passes: no or bf16", "no")
    sharding: str = _doc("none (each process holds all), full (torch's fully_shard) or zero2 (DeepSpeed's)", "none")
    threads: int = _doc("torch threads a process; 0 leaves torch's choice", 0)
    checkpoint_every: int = _doc("steps between checkpoints; the last step is always saved", 50)
    base_kl: str = _doc("when KL of student from base is measured: every_step, or diagnostics", "diagnostics")
    diagnostics_every: int = _doc("steps between decomposition diagnostics; 0 = never", 10)
    diagnostics_tokens: int = _doc("completion tokens a diagnosis looks at", 4096)
    trackers: tuple[str, ...] = _doc("tensorboard, wandb, trackio: any of accelerate's trackers", ())
    max_loss: float = _doc("stop when the loss exceeds this; 0 = off", 0.0)
    min_entropy: float = _doc("stop when the student's mean entropy (nats) falls below; 0 = off", 0.0)
    max_loop_share: float = _doc("stop when a larger share of rollouts ends in a loop; 0 = off", 0.0)
    patience: int = _doc("consecutive bad steps before one of these three stops the run", 3)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a run; equal configs on one machine give equal numbers."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, ready for JSON."""
        return {
            group: {key: list(item) if isinstance(item, tuple) else item for key, item in values.items()}
            for group, values in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
        """The config of nested plain values; missing fields take defaults, unknown ones are refused by name."""
        config = cls()
        for group, items in values.items():
            for key, value in items.items():
                config = _with_field(config, f"{group}.{key}", value)
        return config

    @property
    def hash(self) -> str:
        """16 hex digits that change with any field that can change a number (see :data:`FREE_FIELDS`)."""
        return hash_of(self.to_dict())


def hash_of(values: Mapping[str, Mapping[str, Any]]) -> str:
    """The hash of nested plain values as they are: of a record, what the config had when it was written."""
    flat = {f"{group}.{key}": value for group, items in values.items() for key, value in items.items()}
    kept = {name: value for name, value in sorted(flat.items()) if name not in FREE_FIELDS}
    return hashlib.sha256(dumps(kept).encode()).hexdigest()[:16]


# Fields that may differ between a run and its resumption: no number depends on them.
# The health limits end a run and change no step of it: who was stopped may go on with others.
FREE_FIELDS = (
    "run.name", "run.trackers", "run.checkpoint_every", "model.unverified", "data.unverified",
    "run.max_loss", "run.min_entropy", "run.max_loop_share", "run.patience",
)  # fmt: skip

CHOICES: dict[str, tuple[str, ...]] = {
    "model.tuning": ("lora", "full"),
    "model.dtype": ("float32", "bfloat16"),
    "data.too_long": ("error", "skip"),
    "rollout.engine": ("transformers", "vllm", "server"),
    "method.clip": ("none", "per_entry", "per_token"),
    "method.teacher_mode": ("frozen", "ema", "live"),
    "optim.schedule": ("constant", "linear", "cosine"),
    "run.precision": ("no", "bf16"),
    "run.base_kl": ("every_step", "diagnostics"),
    "run.sharding": ("none", "full", "zero2"),
}
# field: (lowest, highest, ends excluded)
RANGES: dict[str, tuple[float, float, bool]] = {
    "model.lora_rank": (1, math.inf, False),
    "model.lora_alpha": (1, math.inf, False),
    "model.lora_dropout": (0, 1, False),
    "data.limit": (0, math.inf, False),
    "data.train_share": (0, 1, False),
    "data.max_prompt_tokens": (1, math.inf, False),
    "rollout.temperature": (0, math.inf, True),
    "rollout.top_p": (0, 1, False),
    "rollout.top_k": (0, math.inf, False),
    "rollout.max_new_tokens": (1, math.inf, False),
    "rollout.batch_size": (1, math.inf, False),
    "rollout.gpu_memory_share": (0, 1, True),
    "rollout.check_every": (0, math.inf, False),
    "rollout.check_bound": (0, math.inf, True),
    "method.weight_on_target": (0, 1, True),
    "method.clip_value": (0, math.inf, True),
    "method.beta": (0, math.inf, True),
    "method.clip_c": (0, math.inf, True),
    "method.ema_decay": (0, 1, False),
    "optim.steps": (1, math.inf, False),
    "optim.batch_size": (1, math.inf, False),
    "optim.draws": (1, math.inf, False),
    "optim.micro_batch_size": (1, math.inf, False),
    "optim.lr": (0, math.inf, False),
    "optim.warmup_steps": (0, math.inf, False),
    "optim.weight_decay": (0, math.inf, False),
    "optim.beta1": (0, 1, False),
    "optim.beta2": (0, 1, False),
    "optim.eps": (0, math.inf, True),
    "optim.max_grad_norm": (0, math.inf, False),
    "run.threads": (0, math.inf, False),
    "run.checkpoint_every": (1, math.inf, False),
    "run.diagnostics_every": (0, math.inf, False),
    "run.diagnostics_tokens": (1, math.inf, False),
    "run.max_loss": (0, math.inf, False),
    "run.min_entropy": (0, math.inf, False),
    "run.max_loop_share": (0, 1, False),
    "run.patience": (1, math.inf, False),
}


def flatten(config: TrainConfig) -> dict[str, Any]:
    """``{"optim.lr": 5e-06, ...}``: every field by its dotted name."""
    return {f"{g}.{key}": value for g, items in config.to_dict().items() for key, value in items.items()}


def field_docs() -> dict[str, tuple[str, Any, str]]:
    """Dotted name -> (type as written, default, explanation), for help texts and documentation."""
    return {
        f"{g.name}.{f.name}": (str(f.type), f.default, f.metadata["doc"])
        for g in fields(TrainConfig)
        for f in fields(_types()[g.name])
    }


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """One line for each field that differs and can change a number."""
    before, after = flatten(old), flatten(new)
    return [
        f"{name}: {before[name]!r} there, {after[name]!r} now"
        for name in before
        if before[name] != after[name] and name not in FREE_FIELDS
    ]


def apply_overrides(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """Apply ``--group.field value`` (or ``--group.field=value``) pairs; names and types are checked."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"expected --group.field value, got {word!r}; values with spaces need quotes")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if name not in _names():
                raise ValueError(unknown_name("option", name, _names()))
            if not rest:
                raise ValueError(f"--{name} needs a value; give it as --{name} VALUE")
            value = rest.pop(0)
        config = _with_field(config, name, value)
    return config


def validate(config: TrainConfig) -> TrainConfig:
    """The config itself, or ``ValueError`` saying which field, what was given, what is allowed and what to do."""
    flat = flatten(config)
    for name, allowed in CHOICES.items():
        lookup(f"--{name}", flat[name], dict.fromkeys(allowed, ""))
    for name, (low, high, excluded) in RANGES.items():
        value = flat[name]
        inside = low < value < high if excluded else low <= value <= high
        if not inside:
            interval = f"({low}, {high})" if excluded else f"[{low}, {high}]"
            raise ValueError(f"--{name} is {value}; allowed is {interval}. Pass another value.")
    if not config.model.path or not config.data.benchmark:
        raise ValueError("model.path and data.benchmark must be set: start from a recipe or pass both.")
    if config.optim.batch_size % config.optim.draws:
        raise ValueError(
            f"--optim.batch_size {config.optim.batch_size} is not a multiple of --optim.draws {config.optim.draws}; "
            "a step takes all draws of each of its problems. Change one of them."
        )
    if config.rollout.engine == "server" and not config.rollout.server_url:
        raise ValueError("the server engine needs --rollout.server_url, for instance http://localhost:8000/v1")
    if "@" in (config.rollout.server_url or ""):
        raise ValueError("--rollout.server_url holds a user name or password; pass a key as OPSD_API_KEY instead")
    if config.run.sharding == "full" and config.method.teacher_mode == "ema":
        raise ValueError(
            "--run.sharding full keeps no average of sharded weights: choose --method.teacher_mode frozen or live, or "
            "--run.sharding none"
        )
    if config.run.sharding == "zero2" and (config.model.dtype, config.run.precision) != ("float32", "no"):
        raise ValueError(
            f"DeepSpeed would cast base and adapter to one precision; given are --model.dtype {config.model.dtype} and "
            f"--run.precision {config.run.precision}. Pass --model.dtype float32 --run.precision no, or launch with "
            "configs/accelerate/fsdp.yaml, which shards models in bfloat16"
        )
    _validate_names(config.method)
    return config


def _validate_names(method: MethodConfig) -> None:
    """Look the registered names up (imports torch, hence apart)."""
    from opsd_train.contexts import CONTEXTS
    from opsd_train.divergence import DIVERGENCES
    from opsd_train.targets import TARGETS
    from opsd_train.weighting import WEIGHTINGS

    needs = lookup("target", method.target, TARGETS).roles
    roles = lookup("context", method.context, CONTEXTS).roles
    if lacking := sorted(needs - set(roles)):
        able = [name for name, context in CONTEXTS.items() if needs <= set(context.roles)]
        raise ValueError(
            f"target {method.target!r} needs the roles {lacking}, for which context {method.context!r} has no text; "
            f"pass --method.context {' or '.join(able)}"
        )
    lookup("divergence", method.divergence, DIVERGENCES)
    lookup("weighting", method.weighting, WEIGHTINGS)


@functools.cache
def _types(group: str | None = None) -> dict[str, Any]:
    """The type of every field of a group; of every group by default."""
    return get_type_hints(_types()[group] if group else TrainConfig)


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(flatten(TrainConfig()))


def _with_field(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    """The config with one dotted field replaced; text is converted to the field's type."""
    if name not in _names():
        raise ValueError(unknown_name("option", name, _names()))
    group, key = name.split(".")
    value = _convert(name, value, _types(group)[key])
    return replace(config, **{group: replace(getattr(config, group), **{key: value})})


def _convert(name: str, value: Any, kind: Any) -> Any:
    """A value as the field's type, or ``ValueError``; accepts text and what :meth:`to_dict` writes."""
    optional = get_origin(kind) in (Union, types.UnionType)
    if optional:
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        return tuple(str(item).strip() for item in items if str(item).strip())
    if kind is bool:
        table = {"true": True, "false": False, "1": True, "0": False, "on": True, "off": False}
        if str(value).lower() in table:
            return table[str(value).lower()]
    elif kind is str and isinstance(value, str):
        return value
    elif kind in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = int(value) if kind is int and not isinstance(value, float) else float(value)
        except ValueError:
            number = _float_or_nan(value)
        if math.isfinite(number) and (kind is float or number == int(number)):
            return kind(number)
    wanted = "true or false" if kind is bool else {int: "a whole number", float: "a finite number"}.get(kind, "text")
    raise ValueError(f"--{name} is {value!r}; it takes {wanted}{' or none' if optional else ''}.")


def _float_or_nan(text: Any) -> float:
    """``"1e3"`` as 1000.0, anything that is no number as NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan
