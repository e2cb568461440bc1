"""Train a testbed base from nothing: fresh corpus traces, AdamW, cosine, one thread, deterministic for a seed."""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.records import sha256_folder, write_json
from opsd_eval.testbed.bases import base_path, shipped_bases
from opsd_eval.testbed.chains import Canonical, Search
from opsd_eval.testbed.design import DESIGN, Design, design_values
from opsd_eval.testbed.traces import PLAIN, hunch_trace, reference_text, search_trace, slips_trace
from opsd_eval.testbed.worlds import WORLDS, canonical_problems, world

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class PretrainConfig:
    """Size of a base and how it is trained; the defaults made the shipped ones."""

    hidden: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    mlp: int = 256
    steps: int = 1000
    batch: int = 64
    parts: int = 4
    lr: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.01
    pool: int = 60_000
    tokens_per_trace: float = 32.0
    after: str = ""  # the world whose base of the same seed this one starts from; "": fresh weights


#: The chains of ``hunch`` teach arithmetic in clean steps. A corpus of slips blurs every value it hides, and one of
#: trials is mostly long traces: from fresh weights both took several times as long and missed their corpus.
FAMILY_CONFIGS = {
    "hunch": PretrainConfig(),
    "slips": PretrainConfig(steps=800, after="hunch_r10"),
    "search": PretrainConfig(steps=600, after="hunch_r10"),
}


def default_config(world_name: str) -> PretrainConfig:
    """The configuration that made the shipped bases of a world."""
    return FAMILY_CONFIGS[world(world_name).family]


def pick_trace(
    family: str, item: Canonical, rng: random.Random, *, hunches: list[int], design: Design = DESIGN
) -> tuple[str, str]:
    """(user text, solution) for one corpus problem under a randomly drawn prompt kind."""
    question_only, _, reference_only = design.prompt_mix
    draw = rng.random()
    tag, answer_only = None, False
    if draw >= question_only:
        answer_only = rng.random() < design.answer_only_share
        tagged = family == "hunch" and not answer_only
        tag = rng.choice(list(design.recovery)) if tagged else PLAIN
    if isinstance(item, Search):
        solution = search_trace(item, rng, tag=tag, design=design)
    elif family == "hunch":
        solution = hunch_trace(item, rng, tag=tag, hunches=hunches, design=design)
    else:
        solution = slips_trace(item, rng, tag=tag, design=design)
    if tag is None:
        return item.question, solution
    reference = reference_text(family, item, tag, answer_only=answer_only, design=design)
    return (reference if draw >= 1 - reference_only else f"{item.question} {reference}"), solution


def corpus_rows(
    family: str, tokenizer: PreTrainedTokenizerFast, *, seed: int, pool: int, design: Design = DESIGN
) -> Iterator[tuple[list[int], int]]:
    """Endless (token ids, number of prompt ids) of corpus traces over ``pool`` problems; traces are always fresh."""
    from opsd_eval.testbed.vocabulary import ASSISTANT, END, USER

    items = canonical_problems(family, "corpus", pool, seed)
    hunches = [item.answer for item in items]
    rng = random.Random(f"traces/{family}/{seed}")
    words: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        for word in set(text.split()) - words.keys():
            words[word] = tokenizer.encode(word, add_special_tokens=False)
        return [i for word in text.split() for i in words[word]]

    while True:
        user, solution = pick_trace(family, rng.choice(items), rng, hunches=hunches, design=design)
        prompt = encode(f"{USER} {user} {ASSISTANT}")
        yield prompt + encode(f"{solution} {END}"), len(prompt)


def build_model(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, *, seed: int) -> PreTrainedModel:
    """A freshly initialised Qwen3 of the configured size; head size 32 so that vLLM loads it too."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.mlp,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05, attn_implementation="sdpa", dtype="float32",  # pyright: ignore[reportCallIssue]
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(shape)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def first_model(tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, *, seed: int) -> PreTrainedModel:
    """What training starts from: fresh weights, or the base of ``config.after`` with the same seed.

    That base is the shipped one; for a seed that does not ship, it is trained here first.
    """
    from transformers import AutoModelForCausalLM

    if not config.after:
        return build_model(tokenizer, config, seed=seed)
    if (config.after, seed) in shipped_bases():
        return AutoModelForCausalLM.from_pretrained(base_path(config.after, seed), dtype="float32")
    earlier = default_config(config.after)
    model = first_model(tokenizer, earlier, seed=seed)
    rows = corpus_rows(world(config.after).family, tokenizer, seed=seed, pool=earlier.pool)
    fit(model, rows, earlier, pad=tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
    return model


def batch_parts(
    rows: Iterator[tuple[list[int], int]], config: PretrainConfig, *, pad: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A batch cut into parts of similar length: less padding, and the same gradient because losses are summed."""
    taken = sorted((next(rows) for _ in range(config.batch)), key=lambda row: len(row[0]))
    size = -(-config.batch // config.parts)
    return [padded(taken[at : at + size], pad) for at in range(0, config.batch, size)]


def padded(taken: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(input ids, labels), right-padded; only solution tokens are labelled."""
    import torch

    longest = max(len(ids) for ids, _ in taken)
    inputs = torch.full((len(taken), longest), pad)
    labels = torch.full((len(taken), longest), -100)
    for row, (ids, prompt) in enumerate(taken):
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt : len(ids)] = torch.tensor(ids[prompt:])
    return inputs, labels


def trace_loss(model: PreTrainedModel, inputs: torch.Tensor, labels: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Summed cross-entropy of the labelled tokens (nats) divided by a constant.

    So every token of the corpus weighs the same; a mean over the batch's tokens would favour short traces.
    """
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=inputs).logits[:, :-1]
    total = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return total / scale


def fit(
    model: PreTrainedModel, rows: Iterator[tuple[list[int], int]], config: PretrainConfig, *, pad: int
) -> float:
    """Train in place; returns the mean loss of the last tenth of the steps."""
    import torch
    from tqdm import trange

    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / config.warmup, 0.5 + 0.5 * math.cos(math.pi * step / config.steps))
    )
    losses = []
    progress = trange(config.steps, desc="pretrain", mininterval=2)
    for _ in progress:
        optimizer.zero_grad()
        total = 0.0
        for inputs, labels in batch_parts(rows, config, pad=pad):
            loss = trace_loss(model, inputs, labels, scale=config.batch * config.tokens_per_trace)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(total)
        progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def pretrain(
    world_name: str, *, seed: int, out: Path | str, config: PretrainConfig | None = None, threads: int = 1
) -> dict[str, Any]:
    """Train the base of a world's family and write model, tokenizer and ``base.json`` to ``out``; returns the latter.

    Worlds of one family (the hunch worlds) get the same weights for a seed. Same seed, same thread count and same
    library versions give the same bytes.
    """
    import torch

    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; choose another folder or empty it first")
    torch.set_num_threads(threads)
    started = time.perf_counter()
    model, tokenizer, record = train_base(world_name, seed=seed, config=config or default_config(world_name))
    seconds = time.perf_counter() - started
    record |= {
        "training_seconds": seconds, "rates": base_rates(model, tokenizer, record["family"]),
        "versions": {"torch": torch.__version__},
    }  # fmt: skip
    return save_base(model, tokenizer, record, out=out)


def train_base(
    world_name: str, *, seed: int, config: PretrainConfig, design: Design = DESIGN
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, dict[str, Any]]:
    """A base trained on a world's corpus, its tokenizer, and how it was made."""
    from opsd_eval.testbed.vocabulary import build_tokenizer

    family, tokenizer = world(world_name).family, build_tokenizer()
    model = first_model(tokenizer, config, seed=seed)
    rows = corpus_rows(family, tokenizer, seed=seed, pool=config.pool, design=design)
    loss = fit(model, rows, config, pad=tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
    return model, tokenizer, {
        "world": world_name, "family": family, "seed": seed, "training": asdict(config),
        "design": design_values(family, design), "final_loss": loss,
    }  # fmt: skip


def save_base(model: PreTrainedModel, tokenizer: Any, record: Mapping[str, Any], *, out: Path) -> dict[str, Any]:
    """Write model, tokenizer and ``base.json`` (the record, number of parameters and checksum); returns the latter."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)
    parameters = sum(p.numel() for p in model.parameters())
    written = {**record, "parameters": parameters, "sha256": sha256_folder(out)}
    write_json(out / "base.json", written)
    return written


def base_rates(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, family: str) -> dict[str, Any]:
    """Rates of the finished base, world by world of its family: student on every test split, the others on ``id``."""
    from opsd_eval.testbed.rates import ROLES, sampled_rates

    found: dict[str, Any] = {}
    names = [name for name, place in WORLDS.items() if place.family == family]
    for split in ("id", "longer", "larger", "heldout_mix"):
        found[f"student.{split}"] = sampled_rates(model, tokenizer, names[0], split=split)
    for name in names:
        for role in [role for role in ROLES if role != "student"]:
            found[f"{name}.{role}.id"] = sampled_rates(model, tokenizer, name, role=role)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``opsd-train pretrain``."""
    parser.add_argument("world", help=f"which world's base to train: {', '.join(WORLDS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of initial weights, corpus and order (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="new folder for model, tokenizer and base.json")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: those of the shipped base)")


def run(args: argparse.Namespace) -> int:
    """Body of ``opsd-train pretrain``."""
    config = default_config(args.world)
    config = config if args.steps is None else replace(config, steps=args.steps)
    record = pretrain(args.world, seed=args.seed, out=args.out, config=config)
    print(f"{args.out}: {record['parameters']:,} parameters, loss {record['final_loss']:.4f}, "
          f"{record['training_seconds']:.0f} s")
    return 0
