"""Builds and calls ``decode.c``: whole completions of a very small model on one core, some four times flat.py's speed.

The library is compiled with the system's C compiler on first use and kept in the user's cache folder, under a name
made of source, flags, compiler and processor. Without a compiler, with ``OPSD_KERNEL=0``, or for anything the C code
does not cover (top-k, top-p, larger models), the loop of flat.py computes the same distribution.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opsd_eval.engines.base import Completion, Request, Sampling, row_seed

if TYPE_CHECKING:
    import torch

    from opsd_eval.engines.flat import FlatDecoder

_SOURCE = Path(__file__).with_name("decode.c")
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")
_PANEL = 16
_MOST_WEIGHTS = 4_000_000  # beyond a few megabytes the weights no longer stay in a core's cache
_MOST_POSITIONS = 8192
_ROWS_A_CALL = 512
_VALUES_A_CALL = 1 << 23


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("qkv", "out", "gate_up", "down", "cosine", "sine")]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "layers", "hidden", "groups", "repeat", "head", "feed", "vocabulary", "positions", "has_norm",
        )),
        ("epsilon", ctypes.c_float), ("embedding", ctypes.c_void_p), ("unembedding", ctypes.c_void_p),
        ("layer", ctypes.c_void_p),
    ]  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; ``None`` without a C compiler or with ``OPSD_KERNEL=0``."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if os.environ.get("OPSD_KERNEL") == "0" or compiler is None:
        return None
    try:
        path = _cache_folder() / f"decode-{_fingerprint(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).warning("no C decode loop, going on with the one in flat.py: %s", error)
        return None


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "opsd"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="opsd-"))


def _fingerprint(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    parts = (_SOURCE.read_bytes(), " ".join(_FLAGS).encode(), version, features.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _compile(compiler: str, path: Path) -> None:
    """Compile beside ``path`` and rename, so that two processes at once do no harm."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", temporary, "-lm"]
        subprocess.run(command, capture_output=True, check=True, timeout=300)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def kernel_covers(decoder: FlatDecoder, sampling: Sampling, longest: int) -> bool:
    """Whether the C loop computes this: a very small model, plain temperature sampling, prompts up to ``longest``."""
    hidden, feed = decoder.embedding.shape[1], decoder.layers[0].down.shape[0]
    weights = sum(t.numel() for w in decoder.layers for t in (w.qkv, w.out, w.gate_up, w.down))
    return (
        sampling.top_k == 0 and sampling.top_p == 1.0
        and decoder.head % _PANEL == 0 and hidden % _PANEL == 0 and feed % _PANEL == 0
        and weights + decoder.unembedding.numel() <= _MOST_WEIGHTS
        and longest + sampling.max_new_tokens <= _MOST_POSITIONS
        and library() is not None
    )  # fmt: skip


class Kernel:
    """A model's packed weights, ready to generate."""

    def __init__(self, decoder: FlatDecoder, positions: int) -> None:
        decoder.reserve_positions(positions)
        self._kept: list[np.ndarray] = []  # what the C structures point to
        layers = [
            _Layer(
                self._packed(layer.qkv), self._packed(layer.out), self._packed(layer.gate_up), self._packed(layer.down),
                self._plain(cosine), self._plain(sine),
            )
            for layer, (cosine, sine) in zip(decoder.layers, decoder.tables, strict=True)
        ]  # fmt: skip
        self._layers = (_Layer * len(layers))(*layers)
        self.model = _Model(
            len(layers), decoder.embedding.shape[1], decoder.groups, decoder.repeat, decoder.head,
            decoder.layers[0].down.shape[0], decoder.vocabulary, len(decoder.tables[0][0]),
            int(decoder.layers[0].norm is not None), decoder.epsilon, self._plain(decoder.embedding),
            self._packed(decoder.unembedding), ctypes.cast(self._layers, ctypes.c_void_p),
        )  # fmt: skip
        self.vocabulary = decoder.vocabulary

    def _plain(self, tensor: torch.Tensor) -> int:
        self._kept.append(np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32))
        return self._kept[-1].ctypes.data

    def _packed(self, weight: torch.Tensor) -> int:
        """A matrix (in, out) in panels of 16 outputs, (out / 16, in, 16), padded with zeros."""
        array = weight.detach().numpy()
        padded = np.pad(array, ((0, 0), (0, -array.shape[1] % _PANEL)))
        panels = padded.reshape(array.shape[0], -1, _PANEL).transpose(1, 0, 2)
        self._kept.append(np.ascontiguousarray(panels, dtype=np.float32))
        return self._kept[-1].ctypes.data

    def generate(
        self, requests: Sequence[Request], *, sampling: Sampling, stop: Sequence[int], logprobs: bool
    ) -> Iterator[Completion]:
        """Yield the completions, some hundred rows a call; rows of one prompt stay together and share its reading."""
        marks = np.zeros(self.vocabulary, dtype=np.uint8)
        marks[[token for token in stop if token < self.vocabulary]] = 1
        ordered = sorted(requests, key=lambda r: r.prompt_ids)
        count = max(1, min(_ROWS_A_CALL, _VALUES_A_CALL // sampling.max_new_tokens))
        for start in range(0, len(ordered), count):
            yield from self._call(ordered[start : start + count], sampling, marks, logprobs)

    def _call(
        self, rows: Sequence[Request], sampling: Sampling, marks: np.ndarray, logprobs: bool
    ) -> Iterator[Completion]:
        compiled = library()
        assert compiled is not None
        prompts = {prompt: number for number, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in rows))}
        ids = np.concatenate([np.array(prompt, dtype=np.int32) for prompt in prompts])
        offsets = np.cumsum([0, *map(len, prompts)], dtype=np.int32)
        which = np.array([prompts[r.prompt_ids] for r in rows], dtype=np.int32)
        seeds = np.array([row_seed(sampling.seed, r.problem_id, r.draw) for r in rows], dtype=np.uint64)
        tokens = np.zeros((len(rows), sampling.max_new_tokens), dtype=np.int32)
        logp = np.zeros(tokens.shape, dtype=np.float32) if logprobs else None
        lengths = np.zeros(len(rows), dtype=np.int32)
        failed = compiled.generate(
            ctypes.byref(self.model), _at(ids), _at(offsets), len(prompts), _at(which), _at(seeds), len(rows),
            _at(marks), ctypes.c_float(sampling.temperature), sampling.max_new_tokens, _at(tokens), _at(logp),
            _at(lengths),
        )  # fmt: skip
        if failed:
            raise MemoryError(f"no memory for {len(rows)} rows of up to {sampling.max_new_tokens} tokens")
        for i, (request, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
            found = tuple(tokens[i, :length].tolist())
            reason = "stop" if marks[found[-1]] else "length"
            own = tuple(logp[i, :length].tolist()) if logp is not None else None
            yield Completion(request.problem_id, request.draw, found, reason, own)


def _at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
