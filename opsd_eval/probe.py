"""Ask a model for its answer part-way through each completion: ``probes.jsonl`` of a sample set.

The reasoning of each completion (its tokens before the final boxed answer, all of them where there is none; never the
stop token) is cut at 0, 10, … 100 %, a cue that forces the final answer follows, and the model answers greedily in at
most 32 tokens. One row a cut: problem_id, draw, quantile, answer,
agrees (with the completion's own answer; null where it has none), correct (null without a gold answer). Equal prompts,
such as all draws of a problem at 0 %, are answered once. A killed probe goes on where it stopped.
"""

from __future__ import annotations

import argparse
import bisect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.engines.base import Engine, Request, Sampling
from opsd_eval.grading import answers_equal, extract_boxed, grade_text
from opsd_eval.prompts import student_prompt_ids, style_of
from opsd_eval.records import (
    Problem,
    Sample,
    append_jsonl,
    iter_problem_samples,
    read_jsonl,
    read_problems,
    read_run,
    sha256_folder,
    sha256_ids,
)
from opsd_eval.sampling import locked
from opsd_eval.startup import TRANSFORMERS, bring_in

QUANTILES = tuple(round(0.1 * i, 1) for i in range(11))
#: What forces the answer, by kind of prompt style; a thinking block still open is closed first.
CUES = {"bare": " \\boxed{", "boxed": "\n\nFinal answer: \\boxed{"}
_ANSWER_TOKENS = 32
_BLOCK = 200  # completions probed between two writes


def probe_set(folder: Path | str, engine: Engine, tokenizer: Any, *, quantiles: Sequence[float] = QUANTILES) -> Path:
    """Write ``probes.jsonl`` for a sample set with the model that wrote its completions; returns the file's path."""
    from tqdm import tqdm

    folder = Path(folder)
    problems, thinking = read_problems(folder), read_run(folder).config.get("thinking")
    with locked(folder):
        path = folder / "probes.jsonl"
        done = {(r["problem_id"], r["draw"], r["quantile"]) for r in read_jsonl(path)} if path.exists() else set()
        block: list[tuple[Problem, Sample, float]] = []
        for problem_id, samples in tqdm(
            iter_problem_samples(folder, problems, graded=False), total=len(problems), unit="problem", desc="probe"
        ):
            block += [
                (problems[problem_id], sample, q) for sample in samples for q in quantiles
                if sample.text is not None and (problem_id, sample.draw, q) not in done
            ]  # fmt: skip
            if len(block) >= _BLOCK * len(quantiles):
                append_jsonl(path, _probe(block, engine, tokenizer, thinking))
                block = []
        append_jsonl(path, _probe(block, engine, tokenizer, thinking))
    return path


def _probe(
    cuts: Sequence[tuple[Problem, Sample, float]], engine: Engine, tokenizer: Any, thinking: bool | None
) -> list[dict[str, Any]]:
    """The rows of these cuts, each different prompt answered once."""
    reasoning = {
        (sample.problem_id, sample.draw): reasoning_ids(tokenizer, sample)
        for sample in {id(sample): sample for _, sample, _ in cuts}.values()
    }
    prompts = [
        cut_prompt(tokenizer, problem, sample, reasoning[sample.problem_id, sample.draw], q, thinking=thinking)
        for problem, sample, q in cuts
    ]
    different = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    requests = (Request(f"cut-{number}", 0, prompt) for prompt, number in different.items())
    sampling = Sampling(temperature=0.0, max_new_tokens=_ANSWER_TOKENS)
    texts = {
        c.problem_id: tokenizer.decode(c.token_ids, skip_special_tokens=True)
        for c in engine.generate(requests, sampling=sampling)
    }
    own: dict[tuple[str, int], str | None] = {}
    rows = []
    for (problem, sample, q), prompt in zip(cuts, prompts, strict=True):
        key = (problem.problem_id, sample.draw)
        if key not in own:
            grade = grade_text(sample.text, None)
            own[key] = grade.answer_strict if grade.answer_strict is not None else grade.answer_relaxed
        answer = extract_boxed("\\boxed{" + texts[f"cut-{different[prompt]}"])
        rows.append({
            "problem_id": problem.problem_id, "draw": sample.draw, "quantile": q, "answer": answer,
            "agrees": _equal(own[key], answer), "correct": _equal(problem.answer, answer),
        })  # fmt: skip
    return rows


def _equal(gold: str | None, answer: str | None) -> bool | None:
    """Whether an answer is the other one; ``None`` where there is nothing to compare with."""
    if gold is None or not gold.strip():
        return None
    return answer is not None and answers_equal(gold, answer)


def reasoning_ids(tokenizer: Any, sample: Sample) -> list[int]:
    """The completion's tokens before its final boxed answer, without the stop token.

    A set without token ids (ingested) has its text encoded.
    """
    if sample.token_ids is None:
        ids = list(tokenizer(sample.text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(sample.token_ids)
        ids = ids[:-1] if sample.finish_reason == "stop" else ids
    box = tokenizer.decode(ids).rfind("\\boxed")
    if box < 0:
        return ids
    return ids[: bisect.bisect_right(range(len(ids) + 1), box, key=lambda k: len(tokenizer.decode(ids[:k]))) - 1]


def cut_prompt(
    tokenizer: Any, problem: Problem, sample: Sample, reasoning: Sequence[int], quantile: float, *,
    thinking: bool | None = None,
) -> tuple[int, ...]:  # fmt: skip
    """Token ids: the student's prompt, the first ``quantile`` of the reasoning's tokens, and the cue.

    A prompt that is not the one that was sampled from is an error.
    """
    prompt = student_prompt_ids(tokenizer, problem, thinking=thinking)
    if sample.prompt_sha256 is not None and sha256_ids(prompt) != sample.prompt_sha256:
        raise ValueError(
            f"problem {problem.problem_id!r}: this model's prompt is not the one that was sampled from; pass the model "
            "that the set was sampled from"
        )
    before = [*prompt, *reasoning[: round(quantile * len(reasoning))]]
    return (*before, *_cue_ids(tokenizer, problem, before))


def _cue_ids(tokenizer: Any, problem: Problem, before: Sequence[int]) -> Iterable[int]:
    text = CUES[style_of(problem).kind]
    vocabulary = tokenizer.get_vocab()
    if "</think>" in vocabulary and _last(before, vocabulary.get("<think>")) > _last(before, vocabulary["</think>"]):
        text = "\n</think>" + text
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _last(ids: Sequence[int], token: int | None) -> int:
    """Where a token occurs last; −1 when it does not."""
    return max((at for at, i in enumerate(ids) if i == token), default=-1)


# --- the command ------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``opsd-eval probe``."""
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="sample set folders")
    parser.add_argument("--model", required=True, help="the model that the sets were sampled from")
    parser.add_argument("--adapter", metavar="DIR", help="the LoRA adapter that was on it")
    parser.add_argument("--engine", default="transformers", help="see `opsd-eval list engines` (default transformers)")
    parser.add_argument("--url", help="server engine: address of an OpenAI-compatible API, as http://host:8000/v1")
    parser.add_argument("--tokenizer", metavar="DIR", help="server engine: folder of the served model's tokenizer")
    parser.add_argument("--batch-size", type=int, help="rows decoded together, or requests in flight")
    parser.add_argument("--other-model", action="store_true", help="allow a model that the set was not sampled from")


def run(args: argparse.Namespace) -> int:
    """Probe each set; returns the exit code."""
    from opsd_eval.engines import load_engine

    if not args.other_model:
        for folder in args.sets:
            check_model_of(folder, read_run(folder).model, args.model, args.adapter)
    if args.engine == "transformers":
        bring_in(*TRANSFORMERS)
    names = ("adapter", "batch_size", "url", "tokenizer")
    engine: Any = load_engine(args.engine, args.model, **{n: getattr(args, n) for n in names if getattr(args, n)})
    for folder in args.sets:
        print(probe_set(folder, engine, engine.tokenizer))
    return 0


def check_model_of(folder: Path, recorded: Mapping[str, Any], model: str, adapter: str | None) -> None:
    """Refuse weights whose checksum is not the one that the set's run record names."""
    for name, given, stated in (
        ("model", model, recorded.get("sha256")), ("adapter", adapter, recorded.get("adapter_sha256")),
    ):  # fmt: skip
        if stated and given and Path(given).is_dir() and sha256_folder(given) != stated:
            raise ValueError(
                f"{folder} was sampled from a {name} with SHA-256 {stated[:12]}…, {given} has another; pass that "
                f"{name}, or --other-model to probe with this one all the same"
            )
    if bool(recorded.get("adapter")) != bool(adapter):
        how = f"with the adapter {recorded['adapter']}" if recorded.get("adapter") else "without an adapter"
        raise ValueError(f"{folder} was sampled {how}; pass --adapter accordingly, or --other-model")
