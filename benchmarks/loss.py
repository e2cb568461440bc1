"""Time and peak memory of the chunked loss against naive PyTorch, Liger-Kernel and TRL, forward and backward.

    python -m benchmarks.loss                      T=512 at width 896 against all; wider shapes against naive; errors
    python -m benchmarks.loss --quick              a small shape, seconds
    python -m benchmarks.loss --shape 1024 151936 2048 --rounds 5

Every measurement is a process of its own, the sides in turns. Memory is the operating system's account: the
process's peak resident size minus its resident size once weights and hidden states exist. The head is frozen, as
under LoRA; naive and ours leave its gradient out, Liger always computes it. Time is processor seconds of one thread.
Naive is the textbook formula on whole (T, V) tensors by autograd, the frozen roles without gradient. Gradient errors
are against float64 on the same inputs; for bfloat16 inputs the other side is float32 arithmetic on the same inputs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import operator
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import forget_peak, resident, row, say

SIDES = {
    "standard": ("naive", "ours", "floor", "liger", "trl"),
    "purified": ("naive", "ours", "floor"),
}
WIDE = ((512, 151_936, 2048), (256, 151_936, 4096), (1024, 151_936, 896))
ROLES = {"standard": ("teacher",), "purified": ("base", "reference", "teacher")}


# --- one measurement, in a process of its own ----------------------------------------------------------------


def naive(hidden, weight, target, product=operator.matmul):
    """The textbook loss over whole (T, V) tensors, by autograd; ``product`` makes logits of states and head."""
    import torch

    student_logp = torch.log_softmax(product(hidden["student"], weight.T), dim=-1)
    with torch.no_grad():
        logp = {role: torch.log_softmax(product(hidden[role], weight.T), dim=-1) for role in ROLES[target]}
        if target == "standard":
            target_logp = logp["teacher"]
        else:
            delta = logp["teacher"] - logp["reference"]
            delta = 10.0 * torch.tanh((delta - delta.mean(-1, keepdim=True)) / 10.0)
            target_logp = torch.log_softmax(logp["base"] + delta, dim=-1)
    student_prob, target_prob = student_logp.exp(), target_logp.exp()
    mixture_logp = (0.5 * student_prob + 0.5 * target_prob).log()
    value = 0.5 * target_prob * (target_logp - mixture_logp) + 0.5 * student_prob * (student_logp - mixture_logp)
    return value.sum(-1).mean()


def ours(hidden, weight, target):
    from opsd_train.head import Head
    from opsd_train.loss import Method, chunked_loss

    return chunked_loss(hidden, Head(weight), method=Method(target)).loss


def liger(hidden, weight, target):
    """Liger-Kernel's chunked JSD, pure PyTorch on CPU; it wants the head's gradient, and sums over tokens."""
    import torch
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    n = hidden["student"].shape[0]
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5, compiled=False, chunk_size=64)
    labels = torch.zeros(n, dtype=torch.long, device=weight.device)
    return loss(hidden["student"], weight.requires_grad_(), hidden["teacher"], weight.detach(), labels)


def trl(hidden, weight, target):
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    value, _ = ChunkedDivergenceFunction.apply(
        hidden["student"], weight, None, hidden["teacher"], weight, None, 0.5, 1.0
    )
    return value.mean()


def floor(hidden, weight, target):
    """Nothing but the matrix products: every role's projection and the way back, one chunk's logits at a time."""
    import torch

    from opsd_train.head import Head, project, project_back

    head, roles = Head(weight), ("student", *ROLES[target])
    out = torch.empty((64 * len(roles), weight.shape[0]), dtype=weight.dtype)
    for start in range(0, hidden["student"].shape[0], 64):
        rows = torch.cat([hidden[role].detach()[start : start + 64] for role in roles])
        logits = project(rows, head, out=out[: len(rows)])
        project_back(logits[: len(rows) // len(roles)], head)
    return (hidden["student"] * 0.0).sum()


def measure(side, target, shape, *, dtype, threads):
    """Seconds, peak bytes over weights and states, loss, and gradient norm of one forward and backward pass."""
    import torch

    torch.set_num_threads(threads)
    positions, vocab, width = shape
    torch.manual_seed(0)
    weight = torch.randn((vocab, width), dtype=getattr(torch, dtype)).mul_(width**-0.5)
    hidden = {role: torch.randn((positions, width), dtype=weight.dtype) * 2.0 for role in ("student", *ROLES[target])}
    function = globals()[side]
    forget_peak()
    before = resident("VmRSS")

    def once(n):
        now = {role: states[:n].clone() for role, states in hidden.items()}
        now["student"].requires_grad_()
        loss = function(now, weight.detach(), target)
        loss.backward()
        return loss.item(), now["student"].grad.norm().item()

    once(8)
    wall, cpu = time.perf_counter(), time.process_time()
    loss, norm = once(positions)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": cpu, "wall": wall, "bytes": resident("VmHWM") - before, "loss": loss, "grad_norm": norm}


def gradient_error(side, target, shape, *, dtype, threads):
    """Norm of the hidden gradient's difference from float64 arithmetic on the same inputs, relative.

    Inputs are rounded to ``dtype``; ours gets them in it, naive widened to float32. Both gradients are rounded to it.
    """
    import torch

    torch.set_num_threads(threads)
    positions, vocab, width = shape
    torch.manual_seed(0)
    given = getattr(torch, dtype)
    weight = torch.randn((vocab, width)).mul_(width**-0.5).to(given)
    hidden = {role: (torch.randn((positions, width)) * 2.0).to(given) for role in ("student", *ROLES[target])}
    found = []
    for function, inside in ((globals()[side], given if side == "ours" else torch.float32), (naive, torch.float64)):
        now = {role: states.to(inside, copy=True) for role, states in hidden.items()}
        now["student"].requires_grad_()
        function(now, weight.to(inside), target).backward()
        gradient = now["student"].grad
        found.append((gradient if inside == torch.float64 else gradient.to(given)).double())
    return {"error": ((found[0] - found[1]).norm() / found[1].norm()).item()}


# --- the sides in turns --------------------------------------------------------------------------------------


def child(side, target, shape, *, dtype="float32", error=False):
    command = [sys.executable, "-m", "benchmarks.loss", "--child", side, "--target", target, "--dtype", dtype]
    command += ["--shape", *map(str, shape)] + ["--error"] * error
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    if done.returncode:
        raise SystemExit(f"{side} on {target} {shape} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(target, shape, *, rounds, sides, suffix=""):
    """Rows of time and memory of ours against every other side."""
    found = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side].append(child(side, target, shape))
            say(f"{target} {shape} {side}: {found[side][-1]}")
    losses = {side: found[side][0]["loss"] for side in sides if side not in ("floor", "liger")}
    if max(losses.values()) - min(losses.values()) > 1e-4 * max(losses.values()):
        raise SystemExit(f"the sides do not compute the same loss: {losses}")
    label = f"{target} T={shape[0]} V={shape[1]} D={shape[2]} float32, one thread"
    rows = []
    for other in (side for side in sides if side not in ("ours", "floor")):
        for what, key, unit in (("time", "seconds", "processor seconds"), ("memory", "bytes", "bytes")):
            floor = floor_of(found, target, shape)[key]
            rows.append(row(f"loss_{what}_vs_{other}{suffix}", values(found["ours"], key), values(found[other], key),
                            unit, floor=floor, shape=label))  # fmt: skip
        walls = [statistics.median(values(found[side], "wall")) for side in ("ours", other)]
        rows[-2]["wall_ratio"] = walls[0] / walls[1]
    return rows


def values(runs, key):
    return [run[key] for run in runs]


def floor_of(found, target, shape):
    """Seconds of the bare products; bytes of one position's logits of every role and the hidden gradient."""
    seconds = statistics.median(values(found["floor"], "seconds")) if "floor" in found else None
    return {"seconds": seconds, "bytes": 4 * (shape[0] * shape[2] + (1 + len(ROLES[target])) * shape[1])}


def available(side):
    package = {"liger": "liger_kernel", "trl": "trl"}.get(side)
    if package is None or importlib.util.find_spec(package):
        return True
    say(f"{package} is not installed (make install-real); left out")
    return False


def error_row(target, shape, dtype):
    """Our gradient's error against that of plain float32 arithmetic."""
    mine, theirs = (child(side, target, shape, dtype=dtype, error=True)["error"] for side in ("ours", "naive"))
    label = f"{target} T={shape[0]} V={shape[1]} D={shape[2]}, {dtype} inputs, against float64"
    suffix = ("" if target == "purified" else f"_{target}") + ("" if dtype == "float32" else f"_{dtype}")
    return row(f"loss_gradient_error_vs_naive{suffix}", [mine], [theirs], "relative error", floor=None, shape=label)


def all_rows(*, quick, rounds, shape):
    main_shape = shape or ((64, 8192, 128) if quick else (512, 151_936, 896))
    rows = []
    for target in ("purified", "standard"):
        sides = [side for side in SIDES[target] if available(side)]
        suffix = "" if target == "purified" else f"_{target}"
        rows += compare(target, main_shape, rounds=rounds, sides=sides, suffix=suffix)
        few = (min(main_shape[0], 16), *main_shape[1:])
        rows += [error_row(target, few, dtype) for dtype in ("float32", "bfloat16")]
    for wide in () if quick or shape else WIDE:
        needs = 4 * wide[1] * (18 * wide[0] + wide[2])  # naive holds about 17 tables (T, V), and the weights
        if needs > memory_available():
            say(f"{wide} left out: naive PyTorch would take {needs / 1e9:.0f} GB")
            continue
        sides = ["naive", "ours", "floor"]
        rows += compare("purified", wide, rounds=rounds, sides=sides, suffix=f"_t{wide[0]}_d{wide[2]}")
    return rows


def memory_available():
    """Bytes that a new process could take without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, metavar=("T", "V", "D"), help="positions, vocabulary, width")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each side at the first shape (2)")
    parser.add_argument("--quick", action="store_true", help="a small shape and one round, to see that it runs")
    parser.add_argument("--child", choices=("naive", "ours", "floor", "liger", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--target", choices=tuple(SIDES), default="purified", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--error", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work = gradient_error if args.error else measure
        print(json.dumps(work(args.child, args.target, tuple(args.shape), dtype=args.dtype, threads=1)))
        return
    rows = all_rows(quick=args.quick, rounds=1 if args.quick else args.rounds, shape=args.shape and tuple(args.shape))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
