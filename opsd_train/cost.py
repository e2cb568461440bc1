"""What a step costs before it is run: FLOPs, bytes, seconds on a named GPU, and purified against standard.

Legend: D hidden, V vocabulary, T completion tokens, L tokens a row feeds to the decoder (prompt + T − 1).
FLOPs count a multiply-add as 2 and attention as the full L × L square (kernels that skip the masked half do less);
norms, activations and softmax are left out, as in torch's ``FlopCounterMode``, which the tests compare with.
Seconds are FLOPs ÷ (peak × utilisation), decoding the larger of that and bytes ÷ (bandwidth × utilisation). Whatever
is multiplied in float32 counts at the float32 peak: a float32 model, and the adapter of a bfloat16 one, without
autocast, and a float32 output head, which autocast leaves alone. A bfloat16 head's gradient products count twice (see
``opsd_train/head.py``). The loss's elementwise work is bytes ÷ bandwidth. On several GPUs each takes its share of the
rollouts; what they send one another is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opsd_eval.names import lookup
from opsd_train.config import TrainConfig

GIB = 1 << 30
# How often the loss's elementwise work reads or writes one float32 number of a role's (T, V) table: (always, a role).
# Fitted on an H100 (benchmarks/gpu.md) at the data sheet's bandwidth.
_TABLE_TRANSFERS = (49, 32)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model with grouped-query attention and a gated feed-forward layer."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    tied: bool

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the matrix products of one layer."""
        d, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [(d, q), (d, kv), (d, kv), (q, d), (d, self.mlp), (d, self.mlp), (self.mlp, d)]

    @property
    def body(self) -> int:
        """Parameters in the matrix products of all layers."""
        return self.layers * sum(i * o for i, o in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters but norms and biases."""
        return self.body + self.hidden * self.vocabulary * (1 if self.tied else 2)

    def lora(self, rank: int) -> int:
        """Parameters of a rank-``rank`` adapter on every linear layer but the output head."""
        return self.layers * sum(rank * (i + o) for i, o in self.linears)


# Model cards as remembered, not looked up; a model folder on disk is read instead.
SHAPES: dict[str, Shape] = {
    "Qwen/Qwen3-8B": Shape(4096, 36, 32, 8, 128, 12288, 151936, False),
    "Qwen/Qwen3-4B": Shape(2560, 36, 32, 8, 128, 9728, 151936, True),
    "Qwen/Qwen3-1.7B": Shape(2048, 28, 16, 8, 128, 6144, 151936, True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": Shape(3584, 28, 28, 4, 128, 18944, 152064, False),
    "allenai/Olmo-3-7B-Think": Shape(4096, 32, 32, 32, 128, 11008, 100278, False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 30, 9, 3, 64, 1536, 49152, True),
}


@dataclass(frozen=True)
class Gpu:
    """Data-sheet numbers: dense bf16 and plain float32 FLOP/s, bytes/s of memory, GiB of memory."""

    flops: float
    flops_float32: float
    bandwidth: float
    memory: float


GPUS: dict[str, Gpu] = {
    "h200": Gpu(989e12, 67e12, 4.8e12, 141),
    "h100": Gpu(989e12, 67e12, 3.35e12, 80),
    "a100-80": Gpu(312e12, 19.5e12, 2.04e12, 80),
    "a100-40": Gpu(312e12, 19.5e12, 1.56e12, 40),
    "l40s": Gpu(362e12, 91.6e12, 0.86e12, 48),
    "rtx4090": Gpu(165e12, 82.6e12, 1.01e12, 24),
}


@dataclass(frozen=True)
class Lengths:
    """Assumed tokens: the question's prompt, what a reference adds to it, and a completion."""

    question: int = 200
    reference: int = 1000
    completion: int = 1024

    def prompt(self, role: str) -> int:
        """Prompt tokens of a role; the reference-only teacher's is the reference and its wording."""
        sizes = {"teacher": self.question + self.reference, "reference": self.reference}
        return sizes.get(role, self.question)


def decoder_flops(shape: Shape, tokens: int, *, context: int | None = None) -> int:
    """One forward pass of a row of ``tokens`` tokens through the layers, each looking at ``context`` (default: all)."""
    scores = shape.layers * 2 * tokens * (context or tokens) * shape.heads * shape.head_dim
    return 2 * tokens * shape.body + 2 * scores


def head_flops(shape: Shape, tokens: int) -> int:
    """One product with the output head."""
    return 2 * tokens * shape.hidden * shape.vocabulary


def scoring_flops(shape: Shape, lengths: Lengths, role: str) -> int:
    """A frozen role's pass over one rollout, without the head."""
    return decoder_flops(shape, lengths.prompt(role) + lengths.completion - 1)


def student_flops(config: TrainConfig, shape: Shape, lengths: Lengths) -> int:
    """Forward and backward of the student on one rollout, without the head.

    Backward: gradients by activations (one forward's worth; twice for attention's two products, each of which has
    two inputs) and, where weights are trained, by weights. Gradient checkpointing adds a forward pass, but for each
    layer's last product.
    """
    tokens = lengths.prompt("student") + lengths.completion - 1
    linear = 2 * tokens * shape.body
    attention = decoder_flops(shape, tokens) - linear
    forward, backward = linear + attention, linear + 2 * attention
    if config.model.tuning == "full":
        backward += linear
    again = forward - shape.layers * 2 * tokens * shape.mlp * shape.hidden if config.model.gradient_checkpointing else 0
    return forward + again + backward + adapter_flops(config, shape, lengths)


def adapter_flops(config: TrainConfig, shape: Shape, lengths: Lengths) -> int:
    """The adapter's share of :func:`student_flops`: forward, again where recomputed, and both gradients."""
    if config.model.tuning == "full":
        return 0
    tokens = lengths.prompt("student") + lengths.completion - 1
    return (4 if config.model.gradient_checkpointing else 3) * 2 * tokens * shape.lora(config.model.lora_rank)


def loss_flops(config: TrainConfig, shape: Shape, lengths: Lengths, *, terms: int = 1) -> int:
    """Head products of one rollout: logits of each role, gradient by the student's states and by a trained head.

    ``terms``: products that a gradient takes, 2 where its float32 factor is split for the tensor cores.
    """
    products = 1 + len(roles_of(config)) + terms * (1 + (config.model.tuning == "full"))
    return products * head_flops(shape, lengths.completion)


def rollout_flops(shape: Shape, lengths: Lengths) -> int:
    """Sampling one completion with a cache: the prompt once, then one token at a time at the mean context."""
    mean_context = lengths.question + lengths.completion // 2
    decode = decoder_flops(shape, lengths.completion, context=mean_context)
    return decoder_flops(shape, lengths.question) + decode + head_flops(shape, lengths.completion)


@dataclass(frozen=True)
class Cost:
    """One optimiser step as one GPU sees it: FLOPs and seconds by part, bytes by kind."""

    flops: Mapping[str, float]
    seconds: Mapping[str, float]
    train_bytes: Mapping[str, float]
    rollout_bytes: Mapping[str, float]
    beside: bool  # the rollout engine holds its memory while the trainer scores

    @property
    def step_seconds(self) -> float:
        """All parts one after the other."""
        return sum(self.seconds.values())

    @property
    def peak_bytes(self) -> float:
        """Scoring and sampling together where the engine stays beside the trainer, else the larger of the two."""
        scoring, sampling = sum(self.train_bytes.values()), sum(self.rollout_bytes.values())
        return scoring + sampling if self.beside else max(scoring, self.train_bytes["weights"] + sampling)


def roles_of(config: TrainConfig) -> list[str]:
    """Frozen roles that each step scores."""
    from opsd_train.trainer import roles_to_score

    return roles_to_score(config)


def step_cost(
    config: TrainConfig, shape: Shape, lengths: Lengths, gpu: Gpu, *, utilisation: float, gpus: int = 1
) -> Cost:
    """The cost of one optimiser step on each of ``gpus``; diagnostics are spread over the steps between them."""
    if gpus < 1 or config.optim.batch_size % gpus:
        raise ValueError(
            f"--gpus {gpus} does not divide the {config.optim.batch_size} rollouts of a step; pass a number that does"
        )
    n = config.optim.batch_size // gpus
    half = config.model.dtype == "bfloat16"
    flops: dict[str, float] = {
        "rollout": n * rollout_flops(shape, lengths),
        "frozen": n * sum(scoring_flops(shape, lengths, role) for role in roles_of(config)),
        "student": n * student_flops(config, shape, lengths),
        "heads and loss": n * loss_flops(config, shape, lengths, terms=2 if half else 1),
    }
    if config.run.diagnostics_every:
        share = min(n, config.run.diagnostics_tokens / gpus / lengths.completion) / config.run.diagnostics_every
        roles = ("student", "teacher", "reference", "base")
        flops["diagnostics"] = share * sum(scoring_flops(shape, lengths, role) for role in roles)
        flops["heads and loss"] += share * len(roles) * head_flops(shape, lengths.completion)
    autocast = config.run.precision == "bf16"
    peak = (gpu.flops if half or autocast else gpu.flops_float32) * utilisation
    head_peak, adapter_peak = ((gpu.flops if fast else gpu.flops_float32) * utilisation for fast in (half, autocast))
    adapter = n * adapter_flops(config, shape, lengths)
    entries = n * lengths.completion * shape.vocabulary
    transfers = _TABLE_TRANSFERS[0] + _TABLE_TRANSFERS[1] * (1 + len(roles_of(config)))
    seconds = {part: value / peak for part, value in flops.items()}
    seconds["student"] += adapter / adapter_peak - adapter / peak
    seconds["heads and loss"] = flops["heads and loss"] / head_peak + 4 * entries * transfers / gpu.bandwidth
    train_bytes, rollout_bytes = step_bytes(config, shape, lengths, gpu, gpus=gpus)
    stored = shape.parameters * (2 if half else 4)
    reads = lengths.completion * (stored + rollout_bytes["kv_cache"] / 2)
    seconds["rollout"] = max(seconds["rollout"], reads / (gpu.bandwidth * utilisation))
    return Cost(flops, seconds, train_bytes, rollout_bytes, beside=config.rollout.engine == "vllm")


def step_bytes(
    config: TrainConfig, shape: Shape, lengths: Lengths, gpu: Gpu, *, gpus: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes held while scoring (with ``micro_batch_size`` rollouts) and, besides those, while sampling.

    vLLM in process has weights of its own and reserves ``rollout.gpu_memory_share`` of the GPU for as long as the run
    lasts; what it does not need of that is ``reserved``. Sharded weights, gradients and moments are divided by the
    GPUs, plus one layer gathered at a time and, while the transformers engine samples, everything; ZeRO-2 divides
    gradients and moments.
    """
    item = 2 if config.model.dtype == "bfloat16" or config.run.precision == "bf16" else 4
    stored = 2 if config.model.dtype == "bfloat16" else 4
    full = config.model.tuning == "full"
    trained = shape.parameters if full else shape.lora(config.model.lora_rank)
    micro = min(config.optim.micro_batch_size, config.optim.batch_size // gpus)
    states = micro * lengths.completion * shape.hidden * item * (1 + len(roles_of(config)))
    train = {
        "weights": float(shape.parameters * stored),
        "frozen_copy": float(shape.parameters * stored) if full else 0.0,
        "adapter": 0.0 if full else 4.0 * trained,
        "gradients": float(trained * (stored if full else 4)),
        "adam": 2.0 * trained * (stored if full else 4),
        "ema": float(trained * (stored if full else 4)) if config.method.teacher_mode == "ema" else 0.0,
        "activations": activation_bytes(config, shape, lengths, item=item) * micro / _pass_size(config),
        "hidden_states": float(states),
        "loss_blocks": float(loss_bytes(config, shape)),
    }
    sampling = {"kv_cache": 0.0, "logits": 0.0}
    if config.rollout.engine != "server":
        rows = min(config.optim.batch_size // gpus, config.rollout.batch_size)
        context = lengths.question + lengths.completion
        cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * rows * context * item
        sampling = {"kv_cache": float(cache), "logits": float(rows * shape.vocabulary * 4 * 3)}
    if config.run.sharding == "full":
        whole = train["weights"]
        for kind in ("weights", "frozen_copy", "adapter", "gradients", "adam"):
            train[kind] /= gpus
        train["gathered"] = shape.body / shape.layers * stored + shape.hidden * shape.vocabulary * stored
        if config.rollout.engine == "transformers":
            sampling["gathered"] = whole - train["weights"]
    if config.run.sharding == "zero2":
        for kind in ("gradients", "adam"):
            train[kind] /= gpus
        train["share"] = 4.0 * trained / gpus  # DeepSpeed's copy of the weights that it updates here
    if config.rollout.engine == "vllm":
        needed = shape.parameters * stored + sum(sampling.values())
        reserved = max(0.0, config.rollout.gpu_memory_share * gpu.memory * GIB - needed)
        sampling |= {"weights": float(shape.parameters * stored), "reserved": reserved}
    return train, sampling


def _pass_size(config: TrainConfig) -> int:
    """Rollouts in one pass of a single GPU."""
    return min(config.optim.micro_batch_size, config.optim.batch_size)


def layer_bytes_per_token(shape: Shape, *, item: int) -> int:
    """What one layer keeps for backward, a token: inputs of products and norms (float32 inside), gates."""
    d, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (2 * d * item + d * 4)
    attention = (4 * q + 4 * kv) * item  # queries and keys are normalised (twice kept) and rotated (once)
    return norms + attention + 4 * shape.mlp * item


def activation_bytes(config: TrainConfig, shape: Shape, lengths: Lengths, *, item: int) -> int:
    """Kept for the student's backward pass: every layer, or, recomputing, their inputs and one layer."""
    tokens = _pass_size(config) * (lengths.question + lengths.completion - 1)
    layer = tokens * layer_bytes_per_token(shape, item=item)
    if config.model.gradient_checkpointing:
        return shape.layers * tokens * shape.hidden * item + layer
    return shape.layers * layer


def loss_bytes(config: TrainConfig, shape: Shape) -> int:
    """Logits of all roles for one block of positions, and the temporaries of some rows; see ``opsd_train/loss.py``."""
    from opsd_train.loss import block_positions, row_positions

    roles = 1 + len(roles_of(config))
    block = roles * block_positions(roles, shape.vocabulary, device="cuda")
    rows = (2 + 2 * roles) * row_positions(shape.vocabulary, device="cuda")
    return (block + rows) * shape.vocabulary * 4


def shape_of(config: TrainConfig) -> tuple[Shape, str]:
    """(sizes, where they are from): the model's config when it can be read here, else the table of known models."""
    from opsd_eval.testbed.bases import resolve_path

    path = resolve_path(config.model.path)
    if (Path(path) / "config.json").exists():
        from transformers import AutoConfig

        text: Any = AutoConfig.from_pretrained(path).get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        shape = Shape(
            text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads, head_dim,
            text.intermediate_size, text.vocab_size, bool(text.tie_word_embeddings),
        )  # fmt: skip
        return shape, f"{path}/config.json"
    return lookup("model shape", path, SHAPES), "table in opsd_train/cost.py, unverified"


def cost_sheet(
    config: TrainConfig, *, gpu: str = "h100", gpus: int = 1, utilisation: float = 0.35, lengths: Lengths | None = None
) -> str:
    """The cost of a step as a text table, with every assumption."""
    if not 0 < utilisation <= 1:
        raise ValueError(f"--utilisation is {utilisation}; give a share of the peak, above 0 and at most 1")
    device, (shape, source) = lookup("GPU", gpu.lower(), GPUS), shape_of(config)
    lengths = lengths or Lengths(completion=config.rollout.max_new_tokens)
    cost = step_cost(config, shape, lengths, device, utilisation=utilisation, gpus=gpus)
    lines = [
        f"model {config.model.path}: {shape.parameters / 1e9:.2f} G parameters ({source})",
        f"step: {config.optim.batch_size} rollouts, {config.optim.micro_batch_size} a pass; tokens assumed: question "
        f"{lengths.question}, reference {lengths.reference}, completion {lengths.completion}",
        f"{gpus} {gpu}, {config.optim.batch_size // gpus} rollouts each: "
        f"{device.flops / 1e12:.0f} TFLOP/s bf16 dense, {device.flops_float32 / 1e12:.0f} float32, "
        f"{device.bandwidth / 1e12:.2f} TB/s; utilisation assumed {utilisation:.0%}",
        "",
        f"{'part':<14}{'TFLOP':>12}{'seconds':>10}",
        *(f"{part:<14}{value / 1e12:>12.1f}{cost.seconds[part]:>10.2f}" for part, value in cost.flops.items()),
        f"{'step':<14}{sum(cost.flops.values()) / 1e12:>12.1f}{cost.step_seconds:>10.2f}",
        f"{config.optim.steps} steps: {config.optim.steps * cost.step_seconds / 3600:.2f} h",
        "",
        f"{'bytes of one GPU, scoring':<26}{'GiB':>6}",
        *(f"  {kind:<22}{value / GIB:>8.2f}" for kind, value in cost.train_bytes.items() if value),
        f"{'sampling, besides':<26}{'GiB':>6}",
        *(f"  {kind:<22}{value / GIB:>8.2f}" for kind, value in cost.rollout_bytes.items() if value),
        f"{'peak, both at once' if cost.beside else 'peak, one at a time':<24}{cost.peak_bytes / GIB:>8.2f} of "
        f"{device.memory:.0f} GiB" + (": does not fit" if cost.peak_bytes > device.memory * GIB else ""),
        "",
    ]
    for count in sorted({1, gpus, *(n for n in (8,) if config.optim.batch_size % n == 0)}):
        step, scored = purified_over_standard(config, shape, lengths, device, utilisation=utilisation, gpus=count)
        lines.append(
            f"purified / standard on {count} {gpu}: {step:.3f} of a step's seconds, {scored:.3f} without sampling and "
            "diagnostics"
        )
    return "\n".join(lines)


def purified_over_standard(
    config: TrainConfig, shape: Shape, lengths: Lengths, gpu: Gpu, *, utilisation: float, gpus: int
) -> tuple[float, float]:
    """(a step's seconds, those without sampling and diagnostics) of purified ÷ standard, all else equal.

    Decoding reads all weights for each token, however few rows a GPU decodes, while scoring is divided by the GPUs:
    the more GPUs share a batch, the smaller is what the two more frozen passes add to a step.
    """

    def seconds(target: str) -> tuple[float, float]:
        run = replace(config.run, base_kl="diagnostics")
        arm = replace(config, method=replace(config.method, target=target), run=run)
        cost = step_cost(arm, shape, lengths, gpu, utilisation=utilisation, gpus=gpus)
        return cost.step_seconds, sum(cost.seconds[part] for part in ("frozen", "student", "heads and loss"))

    (purified, scored), (standard, scored_standard) = seconds("purified"), seconds("standard")
    return purified / standard, scored / scored_standard
