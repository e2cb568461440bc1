"""The model in its two lives: the student that is trained, and the frozen weights that judge it.

LoRA keeps one set of weights (frozen = adapter off); full fine-tuning keeps a copy, made from the loaded weights
and never read again from disk. The base is always the initial model; teacher and reference-only teacher share
weights, which are the initial ones (``frozen``), an average of the student's (``ema``), or the student's (``live``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opsd_eval.testbed.bases import resolve_path
from opsd_train.config import MethodConfig, ModelConfig
from opsd_train.head import Head, head_of, real_vocab_size
from opsd_train.scoring import UNLIMITED, completion_hidden, frozen_hidden, verify_model

Ids = Sequence[int]
MAX_TOKENS = 16_384
_FILES = "config.json, *.safetensors, tokenizer.json and tokenizer_config.json"


class Inside(nn.Module):
    """Runs a function of the model inside a module's ``forward``.

    Whatever wraps this module (DDP's gradient reduction, FSDP's gathering, mixed precision) acts on everything the
    function does with the model's weights: decoder, output head and loss alike.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        """The function's value at the model."""
        return function(self.model)


class Policy:
    """Student, frozen weights, and which of them each role scores with."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, method: MethodConfig, initial: nn.Module | None):
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = min(real_vocab_size(tokenizer), head_of(model).weight.shape[0])
        self.method = method
        self.initial = initial  # the frozen copy of full fine-tuning; None: the adapter is switched off instead
        self.inside = Inside(model)
        self.inside_initial = self.inside if initial is None else Inside(initial)
        self.source: dict[str, Any] = {}  # where the initial weights are from: path, revision, checksum
        self.sharded = False
        self.gathered = False  # sharded, but whole for the moment
        self.ema = {n: p.detach().clone() for n, p in self.trained().items()} if method.teacher_mode == "ema" else None

    @property
    def max_tokens(self) -> int:
        """Padded tokens in one pass; no limit when sharded, where every process must make the same passes."""
        return UNLIMITED if self.sharded and not self.gathered else MAX_TOKENS

    def roots(self) -> list[Any]:
        """The student and, under full fine-tuning, the frozen copy."""
        return [self.inside] if self.initial is None else [self.inside, self.inside_initial]

    def run(self, function: Callable[[nn.Module], Any], *, initial: bool = False) -> Any:
        """The function's value at the student (or the frozen copy), without gradient, sharded weights gathered."""
        root: Any = self.inside_initial if initial else self.inside
        with torch.no_grad():
            value = root(function)
        if self.sharded and not self.gathered:
            root.reshard()
        return value

    @contextmanager
    def initial_head(self) -> Iterator[None]:
        """Make the frozen copy's output head readable inside the block, where it is sharded."""
        root: Any = self.inside_initial
        if not self.sharded or self.gathered or self.initial is None:
            yield
            return
        root.unshard()
        yield
        root.reshard()

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimiser moves, by name, in the model's order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def update_ema(self) -> None:
        """Move the EMA: decay · ema + (1 − decay) · student; after each optimiser step. Nothing to do without EMA."""
        if self.ema is not None:
            with torch.no_grad():
                for name, parameter in self.trained().items():
                    self.ema[name].lerp_(parameter.detach(), 1.0 - self.method.ema_decay)

    def frozen_hidden(self, prompts: Mapping[str, Sequence[Ids]], completions: Sequence[Ids]) -> dict[str, Tensor]:
        """Hidden states (N, D) of each role, no gradient; roles that share weights go through one joint batch."""
        if self.sharded and not any(len(c) for c in completions):  # gathering layers takes all processes
            found = self.frozen_hidden(prompts, [next(iter(prompts.values()))[0][:1]] * len(completions))
            return {role: states[:0] for role, states in found.items()}
        limit = self.max_tokens
        own = [role for role in prompts if role != "base" and self.method.teacher_mode != "frozen"]
        shared = {role: prompts[role] for role in prompts if role not in own}
        found = self.run(lambda model: frozen_hidden(model, shared, completions, max_tokens=limit), initial=True)
        if own:
            rows = [prompt for role in own for prompt in prompts[role]]
            with self._teacher_weights(), _in_eval(self.model):
                repeated = list(completions) * len(own)
                states = self.run(lambda model: completion_hidden(model, rows, repeated, max_tokens=limit))
            found |= dict(zip(own, states.chunk(len(own)) if len(states) else [states] * len(own), strict=True))
        return found

    def heads(self, roles: Sequence[str]) -> dict[str, Head]:
        """The output head of the student and of each role."""
        student = head_of(self.model, vocab_size=self.vocab_size)
        initial = student if self.initial is None else head_of(self.initial, vocab_size=self.vocab_size)
        teacher = {"frozen": initial, "live": student, "ema": self._ema_head(student)}[self.method.teacher_mode]
        by_role = {role: initial if role == "base" else teacher for role in roles}
        return {"student": student} | {role: head.detached() for role, head in by_role.items()}

    def _ema_head(self, student: Head) -> Head:
        names = {id(parameter): name for name, parameter in self.trained().items()}
        if self.ema is None or id(student.weight) not in names:
            return student
        bias = None if student.bias is None else self.ema.get(names.get(id(student.bias), ""), student.bias)
        return Head(self.ema[names[id(student.weight)]], bias, student.vocab_size)

    @contextmanager
    def _teacher_weights(self) -> Iterator[None]:
        """Put the EMA into the model for the block and the student's very bits back after it."""
        if self.ema is None:
            yield
            return
        parameters = self.trained()
        kept = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data.copy_(self.ema[name])
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data.copy_(kept[name])


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def load_tokenizer(config: ModelConfig) -> Any:
    """The model's tokenizer; one without a chat template, and no ``--model.chat_template``, is an error."""
    from transformers import AutoTokenizer

    with _explained(config):
        tokenizer = AutoTokenizer.from_pretrained(
            resolve_path(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    if config.chat_template:
        tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {config.path!r} has no chat template: pass one with --model.chat_template FILE.jinja, "
            "or take an instruction-tuned model"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {config.path!r} names no end-of-sequence token, so no completion could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is never scored; only its embedding row must exist
    return tokenizer


def load_policy(
    config: ModelConfig, method: MethodConfig, tokenizer: Any, *, seed: int, device: Any = "cpu"
) -> Policy:
    """Load the weights, add the adapter or keep the frozen copy, and check the output head."""
    from transformers import AutoModelForCausalLM

    with _explained(config):
        model = AutoModelForCausalLM.from_pretrained(
            resolve_path(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code,
            dtype=getattr(torch, config.dtype), attn_implementation=config.attention, use_safetensors=True,
        )  # fmt: skip
    policy = make_policy(model.to(device), config, method, tokenizer, seed=seed)
    policy.source = source_of(config, model)
    return policy


def make_policy(model: nn.Module, config: ModelConfig, method: MethodConfig, tokenizer: Any, *, seed: int) -> Policy:
    """The policy of loaded weights: adapter or frozen copy as the config says, after a check of the output head."""
    verify_model(model)
    initial = None
    torch.manual_seed(seed)
    if config.tuning == "lora":
        model = _with_adapter(model, config)
    else:
        initial = copy.deepcopy(model).eval().requires_grad_(False)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore
    return Policy(model, tokenizer, method=method, initial=initial)


def _with_adapter(model: nn.Module, config: ModelConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = config.lora_targets[0] if config.lora_targets == ("all-linear",) else list(config.lora_targets)
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, target_modules=targets,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, lora)  # type: ignore[arg-type]


def source_of(config: ModelConfig, model: Any) -> dict[str, Any]:
    """Path as given, the revision that was resolved, and checksums of local files: ``model`` of ``run.json``.

    ``sha256`` is that of the weights, ``setup_sha256`` that of config, tokenizer and chat template.
    """
    from opsd_eval.records import sha256_folder, sha256_setup

    folder = Path(resolve_path(config.path))
    record: dict[str, Any] = {"path": config.path, "revision": getattr(model.config, "_commit_hash", None)}
    if folder.is_dir():
        record["sha256"] = sha256_folder(folder)
        record["setup_sha256"] = sha256_setup(folder, *filter(None, [config.chat_template]))
    return record


@contextmanager
def _explained(config: ModelConfig) -> Iterator[None]:
    """Turn the loader's errors into one that says what is missing and how to point at a local copy."""
    try:
        yield
    except (OSError, ImportError, ValueError) as error:
        folder = Path(resolve_path(config.path))
        if folder.is_dir():
            have = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
            hint = f"{folder} holds {have}; needed are {_FILES}"
        else:
            hint = (
                f"{config.path!r} is no folder here; without a network, download {_FILES} "
                "elsewhere and pass their folder with --model.path"
            )
        raise ValueError(f"cannot load {config.path!r}: {str(error).splitlines()[0]}\n{hint}") from error
