"""One GPU against the cost sheet: a step's parts at a published shape, the loss against naive PyTorch and Liger.

    python -m benchmarks.gpu                          Qwen3-8B's shape, 16 rollouts a step, about two minutes on an H100
    python -m benchmarks.gpu --model Qwen/Qwen3-4B --rollouts 8
    python -m benchmarks.gpu --from benchmarks/results-gpu.json     nothing but the tables of gpu.md

Weights are random in the shape of a published model (nothing is downloaded), prompts and completions random tokens of
the cost sheet's lengths, LoRA, gradient checkpointing and batches those of the recipe. The steps are real trainer
steps; only the sampled tokens are given. The loss's sides run in turns on the same tensors, after a warm-up, between
synchronisations. Memory is the most that torch's allocator hands out, in a step the most that it reserves. Writes
``results-gpu.json``; ``--from`` puts it into ``gpu.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import between_marks, in_turns, row, rows_table, say
from benchmarks.step import fixed_length, scored

HERE = Path(__file__).parent
DEVICE = "cuda"
LOSS_SHAPES = ((1024, 151_936, 896), (1024, 151_936, 2048), (1024, 151_936, 4096))  # T, V, D
RECIPE = "{target}_qwen3_8b_dasd_10k"


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, with nothing of the GPU's work left over on either side."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def device_rates() -> dict[str, float]:
    """What this GPU does: FLOP/s of a large bfloat16 and float32 product, bytes/s of a copy (read and written)."""
    import torch

    found = {}
    for name, dtype, n in (("bfloat16", torch.bfloat16, 8192), ("float32", torch.float32, 8192)):
        a, b = (torch.randn((n, n), device=DEVICE, dtype=dtype) for _ in range(2))
        found[name] = 2 * n**3 / min(seconds_of(lambda a=a, b=b: a @ b) for _ in range(6))
    source, into = torch.empty((2, 1 << 31), dtype=torch.uint8, device=DEVICE).unbind()
    found["bytes"] = 2 * source.numel() / min(seconds_of(lambda: into.copy_(source)) for _ in range(6))
    return found


# --- the loss --------------------------------------------------------------------------------------------------


def naive_rounded(hidden: Mapping[str, Any], weight: Any, target: str) -> Any:
    """The textbook loss on logits as models give them: bfloat16 products, then float32."""
    from benchmarks import loss

    return loss.naive(hidden, weight, target, lambda states, head: (states @ head).float())


def naive_exact(hidden: Mapping[str, Any], weight: Any, target: str) -> Any:
    """The same in float32 arithmetic on the same bfloat16 inputs."""
    from benchmarks import loss

    return loss.naive({role: states.float() for role, states in hidden.items()}, weight.float(), target)


def widened(hidden: Mapping[str, Any], weight: Any, target: str) -> Any:
    """Ours without tensor cores: the head widened to float32 panel by panel."""
    from benchmarks import loss

    with mock.patch("opsd_train.head.on_tensor_cores", return_value=False):
        return loss.ours(hidden, weight, target)


def loss_sides(target: str) -> dict[str, Callable[..., Any]]:
    """The sides of one target."""
    from benchmarks import loss

    found = {"ours": loss.ours, "naive": naive_rounded, "naive_float32": naive_exact, "widened": widened}
    if target == "standard" and importlib.util.find_spec("liger_kernel"):
        found["liger"] = loss.liger
    return found


def loss_inputs(target: str, shape: tuple[int, int, int]) -> tuple[dict[str, Any], Any]:
    """bfloat16 hidden states by role and a head, on the GPU."""
    import torch

    from benchmarks.loss import ROLES

    positions, vocab, width = shape
    torch.manual_seed(0)
    weight = torch.randn((vocab, width), device=DEVICE).mul_(width**-0.5).bfloat16()
    roles = ("student", *ROLES[target])
    return {role: (2.0 * torch.randn((positions, width), device=DEVICE)).bfloat16() for role in roles}, weight


def gradient(side: Callable[..., Any], hidden: Mapping[str, Any], weight: Any, target: str) -> Any:
    """Forward and backward; the gradient by the student's states."""
    now = {role: states.clone() for role, states in hidden.items()}
    now["student"].requires_grad_()
    side(now, weight.detach(), target).backward()
    return now["student"].grad


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes that the allocator hands out at most during one call, beyond what it held before."""
    import torch

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before


def loss_rows(shapes: Sequence[tuple[int, int, int]], *, rounds: int, rates: Mapping[str, float]) -> list[dict]:
    """Time, memory and gradient error of ours against every other side."""
    from benchmarks import loss

    rows = []
    for target in ("purified", "standard"):
        for shape in shapes:
            hidden, weight = loss_inputs(target, shape)
            sides = loss_sides(target)
            label = f"{target} T={shape[0]} V={shape[1]} D={shape[2]} bfloat16"
            for side in sides.values():  # warm up
                gradient(side, hidden, weight, target)
            passes = {name: partial(gradient, side, hidden, weight, target) for name, side in sides.items()}
            seconds = in_turns(passes, rounds=rounds, label=label, measure=seconds_of)
            memory = {name: peak_of(work) for name, work in passes.items()}
            say(f"{label}: " + "  ".join(f"{n} {statistics.median(s) * 1e3:.1f} ms {memory[n] / 1e6:.0f} MB"
                                         for n, s in seconds.items()))  # fmt: skip
            few = {role: states[:16] for role, states in hidden.items()}
            exact = gradient(loss.naive, {r: s.double() for r, s in few.items()}, weight.double(), target)
            error = {name: float((gradient(side, few, weight, target).double() - exact).norm() / exact.norm())
                     for name, side in sides.items() if name != "liger"}  # fmt: skip
            roles = 1 + len(loss.ROLES[target])
            floor = {
                "time": (roles + 1) * 2.0 * shape[0] * shape[1] * shape[2] / rates["bfloat16"],
                "memory": 2 * shape[0] * shape[2] + 4 * roles * shape[1],
            }
            for other in (name for name in sides if name != "ours"):
                rows.append(row(f"gpu_loss_time_vs_{other}", seconds["ours"], seconds[other], "seconds",
                                floor=floor["time"], shape=label))  # fmt: skip
                if other == "widened":  # the same blocks, the same gradient
                    continue
                rows.append(row(f"gpu_loss_memory_vs_{other}", [memory["ours"]], [memory[other]], "bytes",
                                floor=floor["memory"], shape=label))  # fmt: skip
                if other in error:
                    few_label = label.replace(f"T={shape[0]}", "T=16") + ", against float64"
                    rows.append(row(f"gpu_loss_gradient_error_vs_{other}", [error["ours"]], [error[other]],
                                    "relative error", floor=None, shape=few_label))  # fmt: skip
    return rows


# --- a step ----------------------------------------------------------------------------------------------------


class Numbers:
    """Stands for a tokenizer: ids are all there is."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.eos_token_id = self.pad_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        """Every id under its own name."""
        return {str(i): i for i in range(self.size)}

    def batch_decode(self, rows: Sequence[Sequence[int]], **options: Any) -> list[str]:
        """No text."""
        return ["" for _ in rows]


class Given:
    """Stands for sampling: random completions of the sheet's length, always the same."""

    def __init__(self, prompts: Mapping[str, Any], completions: Mapping[str, tuple[int, ...]]) -> None:
        self.prompts, self.completions = prompts, completions

    def sample(self, rows: Sequence[Any], prompts: Any, *, step: int, logprobs: bool = False) -> list[Any]:
        """The rollouts of these rows."""
        from opsd_train.rollouts import Rollout

        return [Rollout(r.problem.problem_id, r.draw, self.completions[r.problem.problem_id],
                        self.prompts[r.problem.problem_id], "length", "") for r in rows]  # fmt: skip

    def close(self) -> None:
        """Nothing is held."""


def model_of(shape: Any) -> Any:
    """Random bfloat16 weights on the GPU: Qwen3's architecture in the shape of the sheet."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim, intermediate_size=shape.mlp,
        vocab_size=shape.vocabulary, tie_word_embeddings=shape.tied, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")


def session_of(policy: Any, config: Any, lengths: Any, out: Path) -> Any:
    """A trainer's session around a policy, with tokens given instead of sampled."""
    import numpy as np

    from opsd_eval.records import Problem
    from opsd_train.data import TrainingData
    from opsd_train.trainer import Session, make_accelerator, prepare

    accelerator = make_accelerator(config, out)
    random = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(random.integers(1, policy.vocab_size, count).tolist())

    names = [f"p{i}" for i in range(config.optim.batch_size)]
    problems = [Problem(problem_id=name, benchmark="random", question="", answer="") for name in names]
    prompts = {name: {role: ids(lengths.prompt(role)) for role in ("student", "teacher", "base", "reference")}
               for name in names}  # fmt: skip
    sampler = Given(prompts, {name: ids(lengths.completion) for name in names})
    student, optimizer, zero = prepare(config, accelerator, policy)
    data = TrainingData(problems, prompts, ())
    by_id = {p.problem_id: p for p in problems}
    return Session(config, out, accelerator, policy, student, optimizer, data, by_id, sampler, zero)  # type: ignore


def step_rows(
    name: str, *, precision: str, rollouts: int, rounds: int, gpu: str, utilisation: float, sampled: bool = False
) -> list[dict]:
    """Seconds of each part of a step against the sheet's, purified over standard, and the memory peak."""
    import torch

    from opsd_train.cost import GPUS, SHAPES, Lengths, step_cost
    from opsd_train.policy import make_policy
    from opsd_train.recipes import RECIPES
    from opsd_train.trainer import train_step

    shape, lengths = SHAPES[name], Lengths()
    policy, sessions, rows = None, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for target in ("purified", "standard"):
            config = RECIPES[RECIPE.format(target=target)]()
            config = replace(
                config,
                optim=replace(config.optim, batch_size=rollouts, steps=1000),
                rollout=replace(config.rollout, engine="transformers", check_every=0),
                run=replace(config.run, diagnostics_every=0, base_kl="diagnostics", precision=precision),
            )
            if policy is None:
                tokenizer = Numbers(shape.vocabulary)
                policy = make_policy(model_of(shape), config.model, config.method, tokenizer, seed=0)
            sessions[target] = session_of(policy, config, lengths, Path(folder) / target)
        found: dict[str, list[dict[str, float]]] = {target: [] for target in sessions}
        peaks: dict[str, int] = {}
        for number in range(rounds + 1):
            for target in sessions if number % 2 == 0 else reversed(sessions):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                record, fault = train_step(sessions[target], number)
                assert not fault, fault
                found[target].append(record["seconds"])
                peaks[target] = torch.cuda.max_memory_reserved()
                say(f"{target} step {number}: {record['seconds']} loss {record['loss']:.4f} "
                    f"peak {peaks[target] / 2**30:.1f} GiB")  # fmt: skip
    found = {target: steps[1:] for target, steps in found.items()}
    scoring = {target: [scored(step) for step in steps] for target, steps in found.items()}
    label = f"{name} shape, LoRA 64, {rollouts} rollouts of {lengths.completion} tokens, autocast {precision}"
    ending = "" if precision == "no" else f"_{precision}"
    for target, session in sessions.items():
        sheet = step_cost(session.config, shape, lengths, GPUS[gpu], utilisation=utilisation)
        parts = {"frozen": [s["frozen"] for s in found[target]], "student": [s["student"] for s in found[target]]}
        parts["scoring"] = scoring[target]
        expected = {
            "frozen": sheet.seconds["frozen"],
            "student": sheet.seconds["student"] + sheet.seconds["heads and loss"],
        }
        expected["scoring"] = sum(expected.values())
        for part, values in parts.items():
            rows.append(row(f"gpu_{target}_{part}_vs_sheet{ending}", values, [expected[part]] * len(values), "seconds",
                            floor=expected[part] * utilisation, shape=label))  # fmt: skip
        bytes_ = sum(sheet.train_bytes.values())
        rows.append(row(f"gpu_{target}_scoring_memory_vs_sheet{ending}", [peaks[target]], [bytes_], "bytes", floor=None,
                        shape=label))  # fmt: skip
    rows.append(row(f"gpu_purified_step_vs_standard_without_rollouts{ending}", scoring["purified"], scoring["standard"],
                    "seconds", floor=None, shape=label))  # fmt: skip
    if sampled:
        rows += sampling_rows(policy, shape, lengths, gpu=gpu, utilisation=utilisation, label=name)
    return rows


def sampling_rows(
    policy: Any, shape: Any, lengths: Any, *, gpu: str, utilisation: float, label: str, rows: int = 32, new: int = 32
) -> list[dict]:
    """Decoding with the transformers engine against ``generate`` and the sheet."""
    import torch

    from opsd_eval.engines.base import Request, Sampling
    from opsd_eval.engines.transformers_engine import TransformersEngine
    from opsd_train.cost import GPUS

    prompts = torch.randint(1, policy.vocab_size, (rows, lengths.question), device=DEVICE)
    engine = TransformersEngine(policy.model, policy.tokenizer, batch_size=rows)
    sampling = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=new, seed=0, stop_token_ids=())
    requests = [Request(f"p{i}", 0, tuple(p)) for i, p in enumerate(prompts.tolist())]
    policy.model.generation_config.eos_token_id = None
    policy.model.eval()

    def ours() -> None:
        with fixed_length():
            assert sum(len(c.token_ids) for c in engine.generate(requests, sampling=sampling)) == rows * new

    def generate() -> None:
        with torch.inference_mode():
            made = policy.model.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.1, top_p=0.95,
                top_k=20, max_new_tokens=new, pad_token_id=0,
            )  # fmt: skip
        assert made.shape[1] == lengths.question + new

    for work in (ours, generate):
        work()
    found = in_turns({"ours": ours, "generate": generate}, rounds=2, label="sampling", measure=seconds_of)
    mine = found["ours"]
    device = GPUS[gpu]
    stored = 2 * (shape.parameters - (0 if shape.tied else shape.hidden * shape.vocabulary))  # embeddings are looked up
    cache = 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim * rows * (lengths.question + new / 2)
    floor = new * (stored + cache) / device.bandwidth
    text = f"{label} shape: {rows} rows of {new} tokens after {lengths.question}, LoRA 64"
    return [
        row(f"gpu_sampling_seconds_vs_{other}", mine, theirs, "seconds", floor=floor, shape=text)
        for other, theirs in (
            ("transformers_generate", found["generate"]), ("sheet", [floor / utilisation] * len(mine))
        )
    ]  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------


def table(document: Mapping[str, Any]) -> str:
    """The rows of ``results-gpu.json`` as Markdown."""
    rates = document["rates"]
    card = (
        f"One {document['gpu']}, torch {document['torch']}: {rates['bfloat16'] / 1e12:.0f} TFLOP/s of a large bfloat16 "
        f"product, {rates['float32'] / 1e12:.0f} float32, {rates['bytes'] / 1e12:.2f} TB/s of a copy."
    )
    return "\n".join([card, "", *rows_table(document["rows"])])


def page(text: str, document: Mapping[str, Any]) -> str:
    """``gpu.md`` with the measured rows and the cost sheet between their marks."""
    from opsd_train.cost import cost_sheet
    from opsd_train.recipes import RECIPES

    sheet = cost_sheet(RECIPES[RECIPE.format(target="purified")]())
    return between_marks(between_marks(text, "measured", table(document)), "sheet", f"```\n{sheet}\n```")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default="Qwen/Qwen3-8B",
        choices=("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", "Qwen/Qwen3-1.7B"),
        help="whose shape",
    )
    parser.add_argument("--gpu", default="h100", help="its row in the cost sheet (h100)")
    parser.add_argument("--rollouts", type=int, default=16, help="rollouts a step (16; the recipe has 32)")
    parser.add_argument("--rounds", type=int, default=2, help="measured steps of each arm, after one to warm up (2)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="the sheet's assumption (.35)")
    parser.add_argument("--only", choices=("loss", "step"), help="one half")
    parser.add_argument("--child", choices=("no", "bf16"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results-gpu.json")
    parser.add_argument("--from", dest="given", type=Path, help="run nothing: write gpu.md's tables from this file")
    args = parser.parse_args(argv)
    if args.given:
        document, where = json.loads(args.given.read_text(encoding="utf-8")), HERE / "gpu.md"
        where.write_text(page(where.read_text(encoding="utf-8"), document), encoding="utf-8")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("this benchmark needs an NVIDIA GPU and a CUDA build of torch; `opsd-train cost` predicts without one",
              file=sys.stderr)  # fmt: skip
        return 2
    if args.child:
        rows = step_rows(args.model, precision=args.child, rollouts=args.rollouts, rounds=args.rounds, gpu=args.gpu,
                         utilisation=args.utilisation, sampled=args.child == "no")  # fmt: skip
        print(json.dumps(rows))
        return 0
    document: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
                                "rates": device_rates(), "rows": []}  # fmt: skip
    say(f"{document}")
    torch.cuda.empty_cache()
    if args.only != "step":
        document["rows"] += loss_rows(LOSS_SHAPES, rounds=7, rates=document["rates"])
        torch.cuda.empty_cache()
    for precision in () if args.only == "loss" else ("no", "bf16"):  # accelerate fixes it once a process
        command = [sys.executable, "-m", "benchmarks.gpu", *(argv or sys.argv[1:]), "--child", precision]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, check=True)
        document["rows"] += json.loads(done.stdout.splitlines()[-1])
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
