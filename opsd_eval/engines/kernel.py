"""Builds and calls ``decode.c``: whole completions of a small model on CPU, some four times flat.py's speed.

The library is compiled with the system's C compiler on first use and kept in the user's cache folder, under a name
made of source, flags, compiler and processor. Without a compiler, with ``OPSD_KERNEL=0``, or for anything the C code
does not cover (top-k, top-p), the loop of flat.py computes the same distribution.
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
from typing import TYPE_CHECKING, Any

import numpy as np

from opsd_eval.engines.base import Completion, Request, Sampling, row_seed

if TYPE_CHECKING:
    import torch

    from opsd_eval.engines.flat import FlatDecoder

_SOURCE = Path(__file__).with_name("decode.c")
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")
_THREADS = ("-fopenmp",)  # left out where the compiler has no OpenMP: one thread then does all
_PANEL = 16
_ONE_CORE = 4_000_000  # weights: so few stay in a core's cache, and more threads would only wait for each other
_PROMPT_BYTES = 1 << 28  # keys and values of the prompts of one call
_MOST_POSITIONS = 8192
_ROWS_A_RUN = 512
_VALUES_A_RUN = 1 << 23
_WEIGHTS_A_CALL = 500_000_000  # read between two looks at signals: about a second


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
        found = ctypes.CDLL(str(path))
        found.start.restype = ctypes.c_void_p
        return found
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
    parts = (_SOURCE.read_bytes(), " ".join(_FLAGS + _THREADS).encode(), version, features.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _compile(compiler: str, path: Path) -> None:
    """Compile beside ``path`` and rename, so that two processes at once do no harm."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", temporary, "-lm"]
        try:
            subprocess.run([*command, *_THREADS], capture_output=True, check=True, timeout=300)
        except subprocess.CalledProcessError:
            subprocess.run(command, capture_output=True, check=True, timeout=300)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def kernel_covers(decoder: FlatDecoder, sampling: Sampling, longest: int) -> bool:
    """Whether the C loop computes this: plain temperature sampling, prompts up to ``longest``, whole panels."""
    return (
        sampling.top_k == 0 and sampling.top_p == 1.0
        and all(size % _PANEL == 0 for size in (decoder.head, decoder.embedding.shape[1], decoder.feed))
        and longest + sampling.max_new_tokens <= _MOST_POSITIONS
        and library() is not None
    )  # fmt: skip


class Kernel:
    """A model's packed weights, ready to generate with up to ``positions`` positions a row."""

    def __init__(self, decoder: FlatDecoder, positions: int) -> None:
        decoder.reserve_positions(positions)
        self._kept: list[np.ndarray] = []  # what the C structures point to
        tables = decoder.tables
        layers = [self._layer(layer, *table) for layer, table in zip(decoder.read_layers(), tables, strict=True)]
        self._layers = (_Layer * len(layers))(*layers)
        self._position_bytes = 8 * len(layers) * decoder.groups * decoder.head  # of keys and values
        self.model = _Model(
            len(layers), decoder.embedding.shape[1], decoder.groups, decoder.repeat, decoder.head, decoder.feed,
            decoder.vocabulary, len(tables[0][0]), int(decoder.has_norm), decoder.epsilon,
            self._plain(decoder.embedding), self._packed(decoder.unembedding),
            ctypes.cast(self._layers, ctypes.c_void_p),
        )  # fmt: skip
        self.vocabulary = decoder.vocabulary
        self._weights = sum(a.size for a in self._kept)

    def _layer(self, layer: Any, cosine: torch.Tensor, sine: torch.Tensor) -> _Layer:
        return _Layer(
            self._packed(layer.qkv), self._packed(layer.out), self._packed(layer.gate_up), self._packed(layer.down),
            self._plain(cosine), self._plain(sine),
        )  # fmt: skip

    def _plain(self, tensor: torch.Tensor) -> int:
        self._kept.append(np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32))
        return self._kept[-1].ctypes.data

    def _packed(self, weight: torch.Tensor) -> int:
        """A matrix (out, in) in panels of 16 outputs, (out / 16, in, 16), padded with zeros."""
        array = weight.detach().numpy()
        if array.shape[0] % _PANEL:
            array = np.pad(array, ((0, -array.shape[0] % _PANEL), (0, 0)))
        panels = array.reshape(-1, _PANEL, array.shape[1]).transpose(0, 2, 1)
        self._kept.append(np.ascontiguousarray(panels, dtype=np.float32))
        return self._kept[-1].ctypes.data

    def generate(
        self, requests: Sequence[Request], *, sampling: Sampling, stop: Sequence[int], logprobs: bool, batch_size: int
    ) -> Iterator[Completion]:
        """Yield the completions as rows end; rows of one prompt stay together and share its reading."""
        marks = np.zeros(self.vocabulary, dtype=np.uint8)
        marks[[token for token in stop if token < self.vocabulary]] = 1
        ordered = sorted(requests, key=lambda r: r.prompt_ids)
        for rows in self._portions(ordered, max(1, min(_ROWS_A_RUN, _VALUES_A_RUN // sampling.max_new_tokens))):
            yield from self._run(rows, sampling, marks, logprobs, batch_size)

    def _portions(self, ordered: Sequence[Request], most_rows: int) -> Iterator[list[Request]]:
        """Parts of so many rows at most whose different prompts fit into ``_PROMPT_BYTES`` (one always does)."""
        part: list[Request] = []
        filled = 0
        for request in ordered:
            new = not part or request.prompt_ids != part[-1].prompt_ids
            size = len(request.prompt_ids) * self._position_bytes if new else 0
            if part and (len(part) == most_rows or filled + size > _PROMPT_BYTES):
                yield part
                part, filled = [], 0
                size = len(request.prompt_ids) * self._position_bytes
            part.append(request)
            filled += size
        if part:
            yield part

    def _run(
        self, rows: Sequence[Request], sampling: Sampling, marks: np.ndarray, logprobs: bool, batch_size: int
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
        threads = 1 if self._weights <= _ONE_CORE else torch_threads()
        run = compiled.start(
            ctypes.byref(self.model), _at(ids), _at(offsets), len(prompts), _at(which), _at(seeds), len(rows),
            _at(marks), ctypes.c_float(sampling.temperature), sampling.max_new_tokens, batch_size, threads, _at(tokens),
            _at(logp), _at(lengths),
        )  # fmt: skip
        if not run:
            raise MemoryError(f"no memory for {len(rows)} rows of up to {sampling.max_new_tokens} tokens")
        handle, handed_out, going = ctypes.c_void_p(run), np.zeros(len(rows), dtype=bool), True
        try:
            while going:  # a signal is noticed between two calls
                going = compiled.advance(handle, max(1, _WEIGHTS_A_CALL // self._weights))
                for i in np.flatnonzero((lengths > 0) & ~handed_out).tolist():
                    handed_out[i] = True
                    found = tuple(tokens[i, : lengths[i]].tolist())
                    own = tuple(logp[i, : lengths[i]].tolist()) if logp is not None else None
                    reason = "stop" if marks[found[-1]] else "length"
                    yield Completion(rows[i].problem_id, rows[i].draw, found, reason, own)
        finally:
            compiled.finish(handle)


def torch_threads() -> int:
    """The number of threads that torch uses for one operation."""
    import torch

    return torch.get_num_threads()


def _at(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
