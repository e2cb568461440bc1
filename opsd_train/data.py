"""The problems of a run: loaded, kept apart from evaluation, limited to what the run visits, and tokenised once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opsd_eval.records import Problem
from opsd_train.config import DataConfig, TrainConfig
from opsd_train.contexts import PromptLimit, build_prompts
from opsd_train.rollouts import Prompts


@dataclass(frozen=True)
class TrainingData:
    """Problems in a fixed order, the prompts of all roles by problem id, and the ids skipped for length."""

    problems: Sequence[Problem]
    prompts: Mapping[str, Prompts]
    skipped: tuple[str, ...]


def question_share(problem: Problem) -> float:
    """A number in [0, 1) from a hash of the question's words: equal questions, whatever their ids, get one number."""
    words = " ".join(problem.question.split()).casefold()
    return int.from_bytes(hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def in_training_share(problem: Problem, share: float) -> bool:
    """Whether a problem may be trained on when ``share`` of all questions may; the rest is for evaluation."""
    return question_share(problem) < share


def load_problems(config: DataConfig) -> list[Problem]:
    """Problems of the benchmark that may be trained on: in the training share, one for each question."""
    from opsd_eval.benchmarks import load_benchmark

    split = config.split or ("train" if config.benchmark.startswith("reasoning_gym.") else None)
    found = load_benchmark(config.benchmark, limit=config.limit or None, seed=config.seed, split=split)
    unique: dict[float, Problem] = {}
    for problem in found:
        unique.setdefault(question_share(problem), problem)
    kept = [p for p in unique.values() if in_training_share(p, config.train_share)]
    if not kept:
        raise ValueError(
            f"{config.benchmark} gave {len(found)} problems, none of which may be trained on: check --data.limit and "
            "--data.train_share"
        )
    return kept


def load_data(config: TrainConfig, tokenizer: Any) -> TrainingData:
    """Problems and prompts of a run; problems without a reference or with too long a prompt are named here."""
    problems = load_problems(config.data)
    prompts = build_prompts(
        problems, tokenizer=tokenizer, context=config.method.context, thinking=thinking_of(config.data),
        seed=config.run.seed, limit=PromptLimit(config.data.max_prompt_tokens, config.data.too_long),
    )  # fmt: skip
    kept = [p for p in problems if p.problem_id in prompts.by_problem]
    wanted = config.optim.batch_size // config.optim.draws
    if len(kept) < wanted:
        raise ValueError(
            f"{len(kept)} problems are left ({len(prompts.skipped)} skipped for length), a step needs {wanted}: load "
            "more, raise --data.max_prompt_tokens, or take a smaller --optim.batch_size"
        )
    return TrainingData(kept, prompts.by_problem, prompts.skipped)


def thinking_of(config: DataConfig) -> dict[str, bool | None]:
    """The thinking switch of each role."""
    teacher = config.teacher_thinking
    return {"student": config.student_thinking, "teacher": teacher, "reference": teacher}

