"""Engines: the one place that generates text. Token ids in, token ids out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsd_eval.engines.base import Completion, Engine, Request, Sampling, row_seed
from opsd_eval.names import lookup

__all__ = ["ENGINES", "Completion", "Engine", "Request", "Sampling", "load_engine", "row_seed"]


def _transformers(model_path: str | Path, **options: Any) -> Engine:
    """In this process, through transformers: any causal language model, CPU or GPU."""
    from opsd_eval.engines.transformers_engine import TransformersEngine

    return TransformersEngine.from_path(model_path, **options)


def _vllm(model_path: str | Path, **options: Any) -> Engine:
    """In this process, through vLLM (extra `vllm`): fast, with LoRA adapters swapped between calls."""
    from opsd_eval.engines.vllm_engine import VllmEngine

    return VllmEngine(model_path, **options)


def _server(model_path: str | Path, **options: Any) -> Engine:
    """A running server with vLLM's OpenAI-compatible API: many requests in flight, retried, checked."""
    from opsd_eval.engines.server import ServerEngine

    return ServerEngine(model_path, **options)


ENGINES = {"transformers": _transformers, "vllm": _vllm, "server": _server}


def load_engine(name: str, model_path: str | Path, **options: Any) -> Engine:
    """The engine of that name for a model path, hub id or served name; ``options`` are the engine's own."""
    return lookup("engine", name, ENGINES)(model_path, **options)
