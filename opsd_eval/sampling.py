"""Draw completions of a benchmark into a sample set, so that a killed run goes on where it stopped.

``run.json`` is written before the first token, ``problems.jsonl`` next, then completions are appended as rows end.
A row's random stream depends on (seed, problem_id, draw) alone, so a resumed run draws what the interrupted one would
have drawn. ``text`` is the decoded completion without its final stop token; all other special tokens (``<think>``)
stay in it, and ``token_ids`` holds every generated id, the stop token included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.engines.base import Completion, Engine, Request, Sampling, row_seed
from opsd_eval.interrupts import terminable
from opsd_eval.locks import locked as folder_locked
from opsd_eval.prompts import student_prompt_ids
from opsd_eval.records import (
    Problem,
    RunRecord,
    Sample,
    append_samples,
    dumps,
    new_run_record,
    read_problems,
    read_run,
    sampled_keys,
    sha256_folder,
    sha256_ids,
    sha256_setup,
    write_problems,
    write_run,
)
from opsd_eval.secrets import REMOTE_CODE
from opsd_eval.startup import TRANSFORMERS, bring_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Complete settings by name; explicit options win. ``paper``: 12 samples with thinking on, as in arXiv 2607.02234;
#: its limits are not stated, so 38,912 tokens and the Qwen3 thinking settings are our choice.
PRESETS: dict[str, dict[str, Any]] = {
    "plain": {"n": 8, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "thinking": None, "max_new_tokens": None},
    "paper": {"n": 12, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "thinking": True, "max_new_tokens": 38_912},
}
_FLUSH_SECONDS = 1.0
_COMPARED = ("kind", "model", "config", "sampling", "seed")
_SINCE = ("setup_sha256", "adapter_setup_sha256")  # parts of a model that older records do not have


def sample_benchmark(
    engine: Engine, problems: Sequence[Problem], *, n: int, sampling: Sampling, out: Path | str, run: RunRecord,
    tokenizer: PreTrainedTokenizerBase, thinking: bool | None = None,
) -> Path:  # fmt: skip
    """Draw ``n`` completions of every problem into the sample set ``out``; returns its path.

    Draws that ``out`` already holds are skipped. A folder that holds a set of another model, config, sampling, seed
    or other problems is refused with what differs, and so is one that another process is writing. Whatever ends the
    call early (an error of the engine, SIGTERM, Ctrl-C), what was finished by then is on disk.
    """
    if n < 1:
        raise ValueError(f"n is {n}; draw 1 completion or more")
    out = Path(out)
    run = replace(
        run, seed=sampling.seed, sampling={**asdict(sampling), **run.sampling},
        config={"n": n, "thinking": thinking, **run.config},
    )  # fmt: skip
    with locked(out), terminable():
        _claim(out, run, problems)
        prompts = {p.problem_id: tuple(student_prompt_ids(tokenizer, p, thinking=thinking)) for p in problems}
        done = sampled_keys(out)
        requests = [
            Request(p.problem_id, draw, prompts[p.problem_id])
            for p in problems for draw in range(n) if (p.problem_id, draw) not in done
        ]  # fmt: skip
        if requests:
            _draw(engine, requests, sampling=sampling, out=out, tokenizer=tokenizer, already=len(done))
    return out


def _draw(
    engine: Engine, requests: Sequence[Request], *, sampling: Sampling, out: Path, tokenizer: Any, already: int
) -> None:
    """Generate and append, with a progress bar that counts only what is on disk."""
    from tqdm import tqdm

    waiting = {(r.problem_id, r.draw): r for r in requests}
    pending: list[Sample] = []
    tokens, started, flushed = 0, time.monotonic(), time.monotonic()
    bar = tqdm(total=already + len(requests), initial=already, unit="sample", desc=out.name)

    def flush() -> None:
        append_samples(out, pending)
        bar.set_postfix_str(f"{tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s", refresh=False)
        bar.update(len(pending))
        pending.clear()

    try:
        for completion in engine.generate(requests, sampling=sampling):
            request = waiting.pop((completion.problem_id, completion.draw))
            pending.append(_sample(completion, request, sampling, tokenizer))
            tokens += len(completion.token_ids)
            if time.monotonic() - flushed > _FLUSH_SECONDS:
                flush()
                flushed = time.monotonic()
    finally:
        flush()
        bar.close()
    if waiting:
        names = ", ".join(f"{problem_id} draw {draw}" for problem_id, draw in list(waiting)[:5])
        raise ValueError(
            f"{out}: the engine returned no completion for {len(waiting)} of {len(requests)} requests ({names}, …); "
            "run the same command again to draw them"
        )


def _sample(completion: Completion, request: Request, sampling: Sampling, tokenizer: Any) -> Sample:
    ids = list(completion.token_ids)
    shown = ids[:-1] if completion.finish_reason == "stop" else ids
    return Sample(
        problem_id=request.problem_id,
        draw=request.draw,
        text=tokenizer.decode(shown, skip_special_tokens=False),
        token_ids=ids,
        n_tokens=len(ids),
        finish_reason=completion.finish_reason,
        seed=row_seed(sampling.seed, request.problem_id, request.draw),
        prompt_sha256=sha256_ids(request.prompt_ids),
    )


# --- the folder -------------------------------------------------------------------------------------------


def locked(out: Path) -> AbstractContextManager[None]:
    """Hold a sample set for writing; a second process is refused and told which one holds it.

    The lock is the kernel's, so a killed process leaves none behind.
    """
    return folder_locked(
        out, f"{out} is being sampled by process {{holder}}; wait for it, stop it, or choose another --out"
    )


def _claim(out: Path, run: RunRecord, problems: Sequence[Problem]) -> None:
    """Write ``run.json`` and ``problems.jsonl``, or check that those there are the same."""
    if not (out / "run.json").exists():
        if (out / "samples.jsonl").exists() or (out / "train.jsonl").exists():
            raise ValueError(f"{out} holds other output but no run.json; choose another --out")
        write_run(out, run)
    else:
        there = read_run(out)
        run = replace(run, model={k: v for k, v in run.model.items() if k in there.model or k not in _SINCE})
        changed = [line for name in _COMPARED for line in _differences(name, getattr(there, name), getattr(run, name))]
        if changed:
            raise ValueError(
                f"{out} holds a sample set with other settings:\n  " + "\n  ".join(changed)
                + "\nchoose another --out, or repeat the options that made it"
            )  # fmt: skip
    if not (out / "problems.jsonl").exists():
        write_problems(out, problems)
        return
    there = read_problems(out)
    if dumps([asdict(p) for p in there.values()]) != dumps([asdict(p) for p in problems]):
        new = len({p.problem_id for p in problems} - set(there))
        raise ValueError(
            f"{out} holds {len(there)} problems and {len(problems)} were given ({new} of them are not there, or their "
            "text differs); choose another --out"
        )


def _differences(name: str, there: Any, now: Any) -> list[str]:
    """Lines ``key: there → now`` for what differs once both are written as JSON."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        keys = [*there, *(key for key in now if key not in there)]
        return [line for key in keys for line in _differences(f"{name}.{key}", there.get(key), now.get(key))]
    return [] if dumps([there]) == dumps([now]) else [f"{name}: {dumps(there)} there, {dumps(now)} now"]


# --- the command ------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``opsd-eval sample``."""
    parser.add_argument(
        "model", metavar="MODEL",
        help="folder or hub id of a causal language model, testbed:<world>_s<seed> (a shipped base), or a served name",
    )  # fmt: skip
    parser.add_argument("benchmark", metavar="BENCHMARK", help="see `opsd-eval list benchmarks`")
    parser.add_argument("--out", required=True, type=Path, metavar="SET", help="sample set to write or to go on with")
    parser.add_argument("--n", type=int, metavar="K", help="completions of each problem (default 8)")
    parser.add_argument("--limit", type=int, help="only the first LIMIT problems")
    parser.add_argument("--split", help="split of the benchmark, where its name does not say it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random streams (default 0)")
    parser.add_argument("--benchmark-seed", type=int, default=0, help="seed of generated problems (default 0)")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="plain",
        help="plain: 8 draws at temperature 1; paper: 12 draws, thinking on, 38,912 tokens",
    )
    parser.add_argument("--temperature", type=float, help="0 is greedy (default 1)")
    parser.add_argument("--top-p", type=float, help="nucleus mass (default 1: off)")
    parser.add_argument("--top-k", type=int, help="most likely tokens kept (default 0: off)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default 1,024 or what the context allows")
    parser.add_argument("--thinking", choices=("on", "off"), help="the chat template's switch (default: not passed)")
    parser.add_argument("--engine", default="transformers", help="see `opsd-eval list engines` (default transformers)")
    parser.add_argument("--adapter", metavar="DIR", help="LoRA adapter folder to put on the model")
    parser.add_argument("--batch-size", type=int, help="rows decoded together (transformers) or requests in flight")
    parser.add_argument("--url", help="server engine: address of an OpenAI-compatible API, as http://host:8000/v1")
    parser.add_argument("--tokenizer", metavar="DIR", help="server engine: folder of the served model's tokenizer")
    parser.add_argument(
        "--trust-remote-code", action="store_true",
        help="run Python code that comes with the model; only for models whose code you have read",
    )


def run(args: argparse.Namespace) -> int:
    """Sample a benchmark as the arguments say; returns the exit code."""
    from opsd_eval.benchmarks import load_benchmark
    from opsd_eval.engines import load_engine
    from opsd_eval.engines.loading import cached_revision
    from opsd_eval.testbed.bases import resolve_path

    if args.trust_remote_code:
        print(f"opsd-eval sample: {REMOTE_CODE}", file=sys.stderr)
    args.model = resolve_path(args.model)
    preset = PRESETS[args.preset]
    values = {key: default if getattr(args, key) is None else getattr(args, key) for key, default in preset.items()}
    thinking = {"on": True, "off": False}.get(values["thinking"], values["thinking"])
    problems = load_benchmark(args.benchmark, limit=args.limit, seed=args.benchmark_seed, split=args.split)
    if args.engine == "transformers":
        bring_in(*TRANSFORMERS)
    engine: Any = load_engine(args.engine, args.model, **_engine_options(args))
    sampling = Sampling(
        temperature=values["temperature"], top_p=values["top_p"], top_k=values["top_k"], seed=args.seed,
        max_new_tokens=_max_new_tokens(values["max_new_tokens"], engine, problems, thinking),
    )  # fmt: skip
    config = {
        "benchmark": args.benchmark, "limit": args.limit, "split": args.split, "benchmark_seed": args.benchmark_seed,
        "engine": args.engine,
    }  # fmt: skip
    model = model_record(args.model, args.adapter)
    if args.engine != "server":
        model["revision"] = cached_revision(args.model)
    record = new_run_record(args.out.name, "samples", model=model, config=config)
    sample_benchmark(
        engine, problems, n=values["n"], sampling=sampling, out=args.out, run=record, tokenizer=engine.tokenizer,
        thinking=thinking,
    )  # fmt: skip
    print(f"{args.out}: {len(problems)} problems x {values['n']} draws")
    return 0


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options given on the command line; the engine's own defaults stand for the others."""
    names = ("adapter", "batch_size", "url", "tokenizer", "trust_remote_code")
    return {name: getattr(args, name) for name in names if getattr(args, name)}


def model_record(path: str | Path, adapter: str | Path | None = None) -> dict[str, Any]:
    """The model part of a run record: path and adapter, each with the checksums of what is on disk.

    ``sha256`` is that of the weights, ``setup_sha256`` that of config, tokenizer and chat template.
    """
    record: dict[str, Any] = {
        "path": str(path), "sha256": sha256_folder(path) if Path(path).is_dir() else None,
        "setup_sha256": sha256_setup(path) if Path(path).is_dir() else None,
        "adapter": None if adapter is None else str(adapter), "step": None,
    }  # fmt: skip
    if adapter is not None:
        record["adapter_sha256"] = sha256_folder(adapter)
        record["adapter_setup_sha256"] = sha256_setup(adapter)
    return record


def _max_new_tokens(wanted: int | None, engine: Any, problems: Iterable[Problem], thinking: bool | None) -> int:
    """The limit on new tokens: what was asked for if the model's context holds it, else 1,024 or what fits."""
    context = engine.context_length
    longest = max(len(student_prompt_ids(engine.tokenizer, p, thinking=thinking)) for p in problems)
    room = 10**9 if context is None else context - longest
    if room < 1:
        raise ValueError(f"the longest prompt has {longest} tokens, the model's context only {context}")
    if wanted is not None and wanted > room:
        raise ValueError(
            f"--max-new-tokens {wanted} and a prompt of {longest} tokens exceed the model's context of {context}; "
            f"at most {room} fit"
        )
    return wanted or min(1024, room)
