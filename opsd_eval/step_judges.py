r"""Optional: judge the steps of a sample set with a process reward model or with a model behind a server.

**Unmeasured here**: no such model was available where this project was built, so no figure of the project rests on
this file; validate a judge on labelled first errors (ProcessBench, arXiv 2412.06559) before quoting it. What is
tested is the plumbing: a tiny random model and a stub server.

``python -m opsd_eval.step_judges SET --reward-model PATH`` or ``--server URL --model NAME`` writes
``judgements.jsonl`` beside the samples, one row a draw: problem_id, draw, scores (one a step, in [0, 1], null where
unknown), first_error (index of the first bad step, null for none), judge. Draws already judged are skipped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from opsd_eval.answers import extract_boxed
from opsd_eval.records import Problem, append_jsonl, iter_problem_samples, mend_jsonl, read_jsonl, read_problems

MAX_STEPS = 200
BAD_BELOW = 0.5


class StepJudge(Protocol):
    """Anything that scores the steps of one solution, each in [0, 1]; ``None`` where it cannot say."""

    name: str

    def score(self, problem: Problem, steps: Sequence[str]) -> list[float | None]:
        """One score a step."""
        ...


def split_steps(text: str) -> list[str]:
    """A completion's steps: its non-empty lines; of a single line, its clauses (";") or sentences."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = [part.strip() for part in re.split(r"(?<=;)\s+|(?<=[.!?])\s+(?=[A-Z\\$])", lines[0]) if part.strip()]
    return lines[:MAX_STEPS]


@dataclass
class RewardModel:
    """A causal model trained to put a verdict token after each step, as Math-Shepherd does.

    Score of step s: softmax over the logits of ``good`` and ``bad`` at the position of the step's tag.
    Source: arXiv 2312.08935. Differs: reads one folder through transformers; other reward models need their own class.
    """

    path: str
    tag: str = "\u043a\u0438"
    good: str = "+"
    bad: str = "-"
    max_tokens: int = 4096
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Load model and tokenizer; a tag or verdict that is not one token is an error."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name = f"reward-model:{Path(self.path).name}"
        self.tokenizer = AutoTokenizer.from_pretrained(self.path)
        self.model = AutoModelForCausalLM.from_pretrained(self.path, use_safetensors=True).eval()
        self.ids = {text: self._single_id(text) for text in (self.tag, self.good, self.bad)}

    def _single_id(self, text: str) -> int:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids or ids[-1] == self.tokenizer.unk_token_id:
            raise ValueError(f"{self.path}: the tokenizer has no token for {text!r}; give the model's own step tag")
        return ids[-1]

    def score(self, problem: Problem, steps: Sequence[str]) -> list[float | None]:
        """Scores from one forward pass; all ``None`` where the solution is longer than ``max_tokens``."""
        import torch

        ids, places = list(self.tokenizer.encode(problem.question)), []
        for step in steps:
            ids += [*self.tokenizer.encode(f" {step} ", add_special_tokens=False), self.ids[self.tag]]
            places.append(len(ids) - 1)
        if len(ids) > self.max_tokens or not steps:
            return [None] * len(steps)
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, places]
        pair = logits[:, [self.ids[self.good], self.ids[self.bad]]].float()
        return pair.softmax(-1)[:, 0].tolist()


@dataclass
class ServerJudge:
    """A chat model behind an OpenAI-compatible server, asked for the index of the first wrong step.

    Steps before it score 1, it scores 0, later ones ``None`` (they were not judged); no error: all 1; an answer that
    cannot be read, or names no step: all ``None``. Source: the question of ProcessBench (arXiv 2412.06559), reworded.
    """

    url: str
    model: str
    timeout: float = 120.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        """Name the judge."""
        self.name = f"server:{self.model}"

    def score(self, problem: Problem, steps: Sequence[str]) -> list[float | None]:
        """Scores from one request."""
        numbered = "\n".join(f"[{index}] {step}" for index, step in enumerate(steps))
        prompt = (
            "Here are a mathematics problem and a solution, its steps numbered from 0. Find the first step with an "
            "error. Give its number in \\boxed{}, or \\boxed{-1} if every step is right.\n\n"
            f"Problem:\n{problem.question}\n\nSolution:\n{numbered}"
        )
        answer = extract_boxed(self._ask(prompt)) or ""
        if not re.fullmatch(r"-1|\d{1,4}", answer) or int(answer) >= len(steps):
            return [None] * len(steps)
        first = int(answer)
        return [1.0] * len(steps) if first < 0 else [*[1.0] * first, 0.0, *[None] * (len(steps) - first - 1)]

    def _ask(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/v1/chat/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            content = json.load(reply)["choices"][0]["message"]["content"]
        return content if isinstance(content, str) else ""


def judge_set(folder: Path | str, judge: StepJudge) -> Path:
    """Judge every draw of a sample set that has text and no row by this judge yet; returns ``judgements.jsonl``."""
    from tqdm import tqdm

    folder = Path(folder)
    path, problems = folder / "judgements.jsonl", read_problems(folder)
    if path.exists():
        mend_jsonl(path)
    rows: Sequence[Mapping[str, Any]] = list(read_jsonl(path)) if path.exists() else []
    done = {(row["problem_id"], row["draw"]) for row in rows if row["judge"] == judge.name}
    for problem_id, samples in tqdm(iter_problem_samples(folder, problems), total=len(problems), desc="judging steps"):
        for sample in samples:
            if sample.text is None or (problem_id, sample.draw) in done:
                continue
            scores = judge.score(problems[problem_id], split_steps(sample.text))
            first = next((at for at, score in enumerate(scores) if score is not None and score < BAD_BELOW), None)
            row = {"problem_id": problem_id, "draw": sample.draw, "scores": scores, "first_error": first}
            append_jsonl(path, [{**row, "judge": judge.name}])
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m opsd_eval.step_judges", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("set", help="sample set folder")
    parser.add_argument("--reward-model", metavar="PATH", help="folder of a causal process reward model")
    parser.add_argument("--tag", default="\u043a\u0438", help="the reward model's step tag (default: %(default)s)")
    parser.add_argument("--server", metavar="URL", help="OpenAI-compatible server, without /v1")
    parser.add_argument("--model", metavar="NAME", help="model name on the server")
    args = parser.parse_args(argv)
    if bool(args.reward_model) == bool(args.server) or bool(args.server) != bool(args.model):
        parser.error("give either --reward-model PATH, or --server URL and --model NAME")
    judge = RewardModel(args.reward_model, tag=args.tag) if args.reward_model else ServerJudge(args.server, args.model)
    print(f"{judge_set(args.set, judge)} (unmeasured judge: validate it on labelled errors first)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
