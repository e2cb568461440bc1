"""Time and peak memory of the chunked loss against naive PyTorch, Liger-Kernel and TRL, forward and backward.

    python benchmarks/loss.py                      the shapes of the published figures, JSON rows on standard output
    python benchmarks/loss.py --quick              a small shape, seconds
    python benchmarks/loss.py --shape 1024 151936 2048 --rounds 5 --threads 2

Every measurement is a process of its own, the sides in turns. Memory is the operating system's account: the
process's peak resident size minus its resident size once weights and hidden states exist. The head is frozen, as
under LoRA; naive and ours leave its gradient out, Liger always computes it. ``ratio`` = ours ÷ other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SIDES = {
    "standard": ("naive", "ours", "floor", "liger", "trl"),
    "purified": ("naive", "ours", "floor"),
}
ROLES = {"standard": ("teacher",), "purified": ("base", "reference", "teacher")}


# --- one measurement, in a process of its own ----------------------------------------------------------------


def naive(hidden, weight, target):
    """The textbook loss over whole (T, V) tensors, by autograd."""
    import torch

    student_logp = torch.log_softmax(hidden["student"] @ weight.T, dim=-1)
    with torch.no_grad():
        logp = {role: torch.log_softmax(hidden[role] @ weight.T, dim=-1) for role in ROLES[target]}
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
    labels = torch.zeros(n, dtype=torch.long)
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

    roles = ("student", *ROLES[target])
    out = torch.empty((64 * len(roles), weight.shape[0]), dtype=weight.dtype)
    for start in range(0, hidden["student"].shape[0], 64):
        rows = torch.cat([hidden[role].detach()[start : start + 64] for role in roles])
        logits = torch.mm(rows, weight.T, out=out[: len(rows)])
        logits[: len(rows) // len(roles)] @ weight
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
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")

    def once(n):
        now = {role: states[:n].clone() for role, states in hidden.items()}
        now["student"].requires_grad_()
        loss = function(now, weight.detach(), target)
        loss.backward()
        return loss.item(), now["student"].grad.norm().item()

    once(8)
    start = time.perf_counter()
    loss, norm = once(positions)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": resident("VmHWM") - before, "loss": loss, "grad_norm": norm}


def resident(key):
    """Bytes of resident memory as the kernel counts them: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def gradient_error(side, target, shape, *, threads):
    """Norm of the float32 hidden gradient's difference from float64 arithmetic on the same inputs, relative."""
    import torch

    torch.set_num_threads(threads)
    positions, vocab, width = shape
    torch.manual_seed(0)
    weight = torch.randn((vocab, width)).mul_(width**-0.5)
    hidden = {role: torch.randn((positions, width)) * 2.0 for role in ("student", *ROLES[target])}
    found = []
    for function, dtype in ((globals()[side], torch.float32), (naive, torch.float64)):
        now = {role: states.to(dtype) for role, states in hidden.items()}
        now["student"] = now["student"].clone().requires_grad_()
        function(now, weight.to(dtype), target).backward()
        found.append(now["student"].grad.double())
    return {"error": ((found[0] - found[1]).norm() / found[1].norm()).item()}


# --- the sides in turns --------------------------------------------------------------------------------------


def child(args, side, target, shape, *, error=False):
    command = [sys.executable, __file__, "--child", side, "--target", target, "--threads", str(args.threads)]
    command += ["--dtype", args.dtype, "--shape", *map(str, shape)] + ["--error"] * error
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{side} on {target} {shape} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(args, target, shape):
    sides = [side for side in SIDES[target] if available(side)]
    found = {side: [] for side in sides}
    for number in range(args.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side].append(child(args, side, target, shape))
            print(f"{target} {shape} {side}: {found[side][-1]}", file=sys.stderr)
    losses = {side: found[side][0]["loss"] for side in sides if side not in ("floor", "liger")}
    if max(losses.values()) - min(losses.values()) > 1e-4 * max(losses.values()):
        raise SystemExit(f"the sides do not compute the same loss: {losses}")
    suffix = "" if target == "purified" else f"_{target}"
    label = f"{target} T={shape[0]} V={shape[1]} D={shape[2]} {args.dtype}, {args.threads} thread(s)"
    rows = []
    for other in sides:
        if other not in ("ours", "floor"):
            rows.append(row(f"loss_time_vs_{other}{suffix}", found, other, "seconds", shape=label,
                            floor=median(found["floor"], "seconds")))  # fmt: skip
            rows.append(row(f"loss_memory_vs_{other}{suffix}", found, other, "bytes", shape=label,
                            floor=4 * (shape[0] * shape[2] + (1 + len(ROLES[target])) * shape[1])))  # fmt: skip
    return rows


def available(side):
    package = {"liger": "liger_kernel", "trl": "trl"}.get(side)
    if package is None or importlib.util.find_spec(package):
        return True
    print(f"{package} is not installed; left out", file=sys.stderr)
    return False


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def row(name, found, other, unit, *, shape, floor):
    """One result: medians, and as ``spread`` the lowest and highest ratio of one round.

    ``floor``: seconds of the bare products, or the bytes of one position's logits and the hidden gradient.
    """
    ratios = [a[unit] / b[unit] for a, b in zip(found["ours"], found[other], strict=True)]
    mine, theirs = median(found["ours"], unit), median(found[other], unit)
    return {"name": name, "ratio": mine / theirs, "ours": mine, "other": theirs, "unit": unit, "better": "lower",
            "spread": [min(ratios), max(ratios)], "floor": floor, "shape": shape}  # fmt: skip


def error_rows(args, target, shape):
    mine = child(args, "ours", target, shape, error=True)["error"]
    theirs = child(args, "naive", target, shape, error=True)["error"]
    label = f"{target} T={shape[0]} V={shape[1]} D={shape[2]} float32 against float64"
    suffix = "" if target == "purified" else f"_{target}"
    return [{"name": f"loss_gradient_error_vs_naive{suffix}", "ratio": mine / theirs, "ours": mine, "other": theirs,
             "unit": "relative error", "better": "lower", "spread": None, "floor": 6e-8, "shape": label}]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, metavar=("T", "V", "D"), help="positions, vocabulary, width")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of states and head")
    parser.add_argument("--target", choices=tuple(SIDES), help="only this one (default both)")
    parser.add_argument("--quick", action="store_true", help="a small shape and one round, to see that it runs")
    parser.add_argument("--child", choices=("naive", "ours", "floor", "liger", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--error", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = tuple(args.shape or ((64, 8192, 128) if args.quick else (512, 151_936, 896)))
    if args.child:
        if args.error:
            print(json.dumps(gradient_error(args.child, args.target, shape, threads=args.threads)))
        else:
            print(json.dumps(measure(args.child, args.target, shape, dtype=args.dtype, threads=args.threads)))
        return
    args.rounds = 1 if args.quick else args.rounds
    rows = []
    for target in [args.target] if args.target else ["purified", "standard"]:
        rows += compare(args, target, shape)
        rows += error_rows(args, target, (min(shape[0], 48), *shape[1:]))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
