"""Score samples that already exist through the harness: a model that replays a sample set.

``opsd-lm-eval --model opsd-replay --model_args set=runs/…/step-000100 --include_path … --tasks …`` is the stock
command with this model registered (the harness looks models up before it imports any task, so the stock command
cannot see it). Used to show that harness numbers equal offline numbers, and to rescore old samples.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any


def register() -> type:
    """Register the model ``opsd-replay`` with the harness and return its class."""
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model

    from opsd_eval.records import load_sample_set

    @register_model("opsd-replay")
    class ReplayLM(LM):
        """Answers the n-th request for a problem with its n-th draw."""

        def __init__(self, set: str, **_: Any) -> None:
            super().__init__()
            self.samples = load_sample_set(Path(set), graded=False).samples

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """The recorded texts, in the order of the requests."""
            seen: dict[tuple[str, str], int] = defaultdict(int)
            answers = []
            for request in requests:
                key = (request.task_name, request.doc["problem_id"])
                draws = self.samples.get(key[1], ())
                if seen[key] >= len(draws):
                    raise ValueError(
                        f"the sample set has {len(draws)} draws of problem {key[1]!r}, but the task asks for more: "
                        "write tasks for that number of draws with python -m opsd_eval.harness_tasks --k"
                    )
                answers.append(draws[seen[key]].text or "")
                seen[key] += 1
            return answers

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """Not available: a sample set holds texts only."""
            raise ValueError("opsd-replay replays generated texts and cannot score log-likelihood tasks")

        loglikelihood_rolling = loglikelihood  # type: ignore[assignment]

        @property
        def tokenizer_name(self) -> str:
            """Required by the harness when a chat template is applied; replaying applies none."""
            return "opsd-replay"

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """The messages' text: the prompt is not used when replaying."""
            return "\n".join(message["content"] for message in chat_history)

    return ReplayLM


def main() -> None:
    """The harness's command line with the replay model registered."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
