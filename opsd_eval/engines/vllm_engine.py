"""The vLLM engine in this process: token ids in and out, one seed for each row, LoRA adapters swapped between calls.

Two of vLLM's traps are avoided by construction: an adapter id is never used twice (the same id with a new path keeps
the old weights), and requests with and without an adapter are never in flight together, with ``max_loras`` one above
what is in use (on CPU a base request beside adapter requests is computed with the adapter).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from opsd_eval.engines.base import Completion, Request, Sampling, check_requests, end_ids, row_seed

_CPU_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}


class VllmEngine:
    """Generates with vLLM's own engine; ``options`` go to ``vllm.LLM`` (``max_model_len``, ``dtype``, …).

    ``adapters=True`` (or an ``adapter``) makes room for LoRA adapters up to ``max_lora_rank``; :meth:`use_adapter`
    then swaps them, which is how a trainer brings the engine's weights up to date after a step.
    """

    def __init__(
        self, model_path: str | Path, *, adapter: str | Path | None = None, adapters: bool = False,
        max_lora_rank: int = 64, batch_size: int | None = None, trust_remote_code: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        from opsd_eval.engines.loading import check_adapter, check_model, check_whole, load_tokenizer

        check_model(model_path)
        check_whole(model_path)
        if adapter is not None:
            check_adapter(adapter, model_path)
        llm_class = _import_vllm()
        self.path = str(model_path)
        self.tokenizer = load_tokenizer(model_path, trust_remote_code=trust_remote_code)
        if adapter is not None or adapters:
            options = {"enable_lora": True, "max_loras": 2, "max_lora_rank": max_lora_rank, **options}
        if batch_size is not None:
            options["max_num_seqs"] = batch_size
        values = {
            "seed": 0, "disable_log_stats": True, "dtype": _stored_dtype(self.path),
            **_whole_prompts(self.path, options.get("max_model_len")), **options,
        }  # fmt: skip
        self.llm = llm_class(model=self.path, tokenizer=self.path, trust_remote_code=trust_remote_code, **values)
        self._takes_adapters = bool(options.get("enable_lora"))
        self._adapters_used, self._requests_made = 0, 0
        self._adapter: Any = None
        self.use_adapter(adapter)

    @property
    def context_length(self) -> int:
        """The engine's greatest number of tokens in prompt and completion together."""
        return self.llm.llm_engine.model_config.max_model_len

    def use_adapter(self, adapter: str | Path | None) -> None:
        """Use this LoRA adapter from the next ``generate`` on (``None``: the base), always under a new id."""
        if adapter is None:
            self._adapter = None
            return
        if not self._takes_adapters:
            raise ValueError("this vLLM engine was made without room for adapters; make it with adapters=True")
        from vllm.lora.request import LoRARequest

        self._adapters_used += 1
        name = f"adapter-{self._adapters_used}"
        self._adapter = LoRARequest(name, self._adapters_used, str(Path(adapter).resolve()))

    def generate(
        self, requests: Iterable[Request], *, sampling: Sampling, logprobs: bool = False
    ) -> Iterator[Completion]:
        """Yield one completion for every request, as rows finish; log-probabilities are vLLM's raw ones."""
        engine, waiting = self.llm.llm_engine, {}
        for request in check_requests(requests):
            self._requests_made += 1
            name = f"row-{self._requests_made}"
            waiting[name] = request
            engine.add_request(
                name, {"prompt_token_ids": list(request.prompt_ids)}, self._parameters(request, sampling, logprobs),
                lora_request=self._adapter,
            )  # fmt: skip
        try:
            while waiting and engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        yield _completion(waiting.pop(output.request_id), output.outputs[0], logprobs)
        finally:
            if waiting:  # the caller stopped early
                engine.abort_request(list(waiting))

    def _parameters(self, request: Request, sampling: Sampling, logprobs: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, detokenize=False,
            max_tokens=sampling.max_new_tokens, logprobs=0 if logprobs else None,
            seed=row_seed(sampling.seed, request.problem_id, request.draw),
            stop_token_ids=end_ids(sampling.stop_token_ids, self.tokenizer.eos_token_id),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip

    def close(self) -> None:
        """Give the engine's memory back."""
        with contextlib.suppress(AttributeError):
            self.llm.llm_engine.engine_core.shutdown()


def _completion(request: Request, output: Any, logprobs: bool) -> Completion:
    ids = tuple(output.token_ids)
    logp = None
    if logprobs:
        logp = tuple(step[token].logprob for step, token in zip(output.logprobs, ids, strict=True))
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended {request.problem_id} draw {request.draw} with {output.finish_reason!r}")
    return Completion(request.problem_id, request.draw, ids, output.finish_reason, logp)


def _whole_prompts(path: str, context: int | None) -> dict[str, Any]:
    """On a CPU, never read a prompt in pieces: vLLM 0.32 then winds a seeded row's generator back, and fails."""
    import torch
    from transformers import AutoConfig

    if torch.cuda.is_available():
        return {}
    longest = context or getattr(AutoConfig.from_pretrained(path).get_text_config(), "max_position_embeddings", 0)
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, longest)}


def _stored_dtype(path: str) -> str:
    """The precision that the checkpoint names: left to itself, vLLM turns float32 into bfloat16."""
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(path).dtype
    return "auto" if stored is None else str(stored).removeprefix("torch.")


def _import_vllm() -> Any:
    """``vllm.LLM``, with the settings that the CPU build needs set before the import unless the user set them."""
    import torch

    if not torch.cuda.is_available():
        for name, value in _CPU_SETTINGS.items():
            os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm import LLM
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ValueError("the vllm engine needs vLLM: pip install 'opsd[vllm]'") from None
    return LLM
