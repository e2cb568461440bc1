"""The server engine: any server with vLLM's OpenAI-compatible ``/v1/completions`` (token ids in and out).

Many requests are in flight, each with the row's own seed. Every answer is checked before it is believed: the model's
name, that the prompt is the one sent, a single finished choice, token ids within the limit. A bad answer is asked for
again. A request that gets no usable answer does not hold up the others: the engine goes on and ends with an error that
names what is missing, after handing over all that was finished. A server that goes away is waited for.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.engines.base import Completion, Request, Sampling, check_requests, end_ids, row_seed
from opsd_eval.engines.wire import BadAnswer, Unanswered, Unknown, Wire
from opsd_eval.names import unknown_name
from opsd_eval.records import read_json

_FAILURES_IN_A_ROW = 3
_BYTES_A_TOKEN = 1024  # an answer's JSON, log-probability and text of a token included


class ServerEngine:
    """Generates through a running server.

    ``model`` is the served name, ``url`` the address up to ``/v1``, ``tokenizer`` the folder or hub id of the served
    model's tokenizer (default: ``model``). ``batch_size`` requests are in flight. ``timeout`` seconds bound one answer,
    ``attempts`` the bad answers to one request, ``outage`` the seconds that a server that went away is waited for.
    """

    def __init__(
        self, model: str | Path, *, url: str | None = None, tokenizer: str | Path | None = None,
        batch_size: int | None = None, timeout: float = 600.0, attempts: int = 6, outage: float = 600.0,
        trust_remote_code: bool = False,
    ) -> None:  # fmt: skip
        from opsd_eval.engines.loading import load_tokenizer

        if not url:
            raise ValueError("the server engine needs the server's address, as --url http://host:8000/v1")
        self.model = str(model)
        self.in_flight = batch_size or 32
        self.wire = Wire(url, timeout=timeout, attempts=attempts, outage=outage)
        self.tokenizer = load_tokenizer(tokenizer or model, trust_remote_code=trust_remote_code)
        self.context_length = self._find_model()
        self._ends = set(end_ids(self.tokenizer.eos_token_id, _own_ends(tokenizer or model)))
        self._may_end = self._ends | set(self.tokenizer.all_special_ids)
        self._vocabulary = max(self.tokenizer.get_vocab().values()) + 1
        self._gave_ids = False
        self._adapters_used = 0
        self._adapter: tuple[str, Path] | None = None
        self._loading = threading.Lock()

    def _find_model(self) -> int | None:
        """The served model's context length, where the server states it; a name it does not serve is refused."""

        def read(answer: Any) -> int | None:
            try:
                served = {str(entry["id"]): entry.get("max_model_len") for entry in answer["data"]}
            except (KeyError, TypeError, AttributeError):
                raise BadAnswer("the list of models is malformed") from None
            if self.model not in served:
                raise ValueError(self.wire.clean(unknown_name("served model", self.model, list(served))))
            length = served[self.model]
            return length if type(length) is int and length > 0 else None

        return self.wire.ask("/models", None, read)

    def use_adapter(self, adapter: str | Path) -> None:
        """Have the server load a LoRA adapter from its own disk under a new name, and use it from now on.

        The server must run with ``--enable-lora`` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; the adapter used before
        is unloaded first.
        """
        self._unload()
        self._adapters_used += 1
        self._adapter = (f"opsd-{os.getpid()}-{self._adapters_used}", Path(adapter).resolve())
        self.model = self._adapter[0]
        self._load_adapter()

    def close(self) -> None:
        """Leave the server as it was found, if it still answers."""
        self.wire.attempts, self.wire.outage = 1, 0.0
        with contextlib.suppress(ValueError):
            self._unload()

    def _unload(self) -> None:
        if self._adapter is not None:
            with contextlib.suppress(Unknown):  # the server was started again since
                self.wire.post("/unload_lora_adapter", {"lora_name": self._adapter[0]})

    def _load_adapter(self) -> None:
        assert self._adapter is not None
        name, path = self._adapter
        try:
            self.wire.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        except Unanswered as error:
            if "already been loaded" not in str(error):  # by another request, or before an answer got lost
                raise

    def generate(
        self, requests: Iterable[Request], *, sampling: Sampling, logprobs: bool = False
    ) -> Iterator[Completion]:
        """Yield completions as they arrive; if some never do, a final ``ValueError`` says which and why.

        What concerns every request (another model answers, the key is refused, three requests in a row fail) ends the
        call at once, after handing over what has arrived.
        """
        todo: queue.SimpleQueue[Request] = queue.SimpleQueue()
        count = 0
        for request in check_requests(requests):
            todo.put(request)
            count += 1
        done: queue.Queue[Completion | tuple[Request, Exception]] = queue.Queue(maxsize=2 * self.in_flight)
        stopped = self.wire.stopped = threading.Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    request = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put(self._complete(request, sampling, logprobs))
                except Exception as error:  # handed to the caller
                    done.put((request, error))

        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(self.in_flight, count))]
        for worker in workers:
            worker.start()
        failed: list[tuple[Request, Exception]] = []
        in_a_row = 0
        try:
            for _ in range(count):
                result = done.get()
                if isinstance(result, Completion):
                    in_a_row = 0
                    yield result
                    continue
                failed.append(result)
                in_a_row += 1
                if not isinstance(result[1], Unanswered) or in_a_row >= _FAILURES_IN_A_ROW:
                    stopped.set()
                    yield from _arrived(done)
                    raise result[1]
            if failed:
                raise _incomplete(failed, count) from failed[0][1]
        finally:
            stopped.set()
            list(_arrived(done))  # so that no worker waits for room

    def _complete(self, request: Request, sampling: Sampling, logprobs: bool) -> Completion:
        """One request's completion, asked for until a usable answer comes."""
        seed = row_seed(sampling.seed, request.problem_id, request.draw)
        body: dict[str, Any] = {
            "model": self.model, "prompt": list(request.prompt_ids), "n": 1, "seed": seed,
            "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "top_k": sampling.top_k, "min_p": 0.0, "repetition_penalty": 1.0,  # else the model's own defaults apply
            "stop_token_ids": end_ids(sampling.stop_token_ids, self.tokenizer.eos_token_id), "return_token_ids": True,
            "skip_special_tokens": False, "logprobs": 1 if logprobs else None,
        }  # fmt: skip
        most = (1 << 20) + _BYTES_A_TOKEN * (len(request.prompt_ids) + sampling.max_new_tokens)

        def ask() -> Completion:
            return self.wire.ask(
                "/completions", body, lambda answer: self._read(answer, request, sampling, logprobs), seed=seed,
                most_bytes=most,
            )  # fmt: skip

        try:
            return ask()
        except Unknown:
            if self._adapter is None or self._adapter[0] != body["model"]:
                raise
        with self._loading:  # a server that was started again knows the base only
            self._load_adapter()
        return ask()

    def _read(self, answer: Any, request: Request, sampling: Sampling, logprobs: bool) -> Completion:
        """Check an answer against what was asked; anything off is a :class:`BadAnswer`, a wrong model an error."""
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            raise BadAnswer("no list of choices")
        if answer.get("model") != self.model:
            other = self.wire.clean(str(answer.get("model")))[:200]
            raise ValueError(f"{self.wire.url}: asked for model {self.model!r}, answered by {other!r}")
        if len(answer["choices"]) != 1 or not isinstance(answer["choices"][0], dict):
            raise BadAnswer(f"{len(answer['choices'])} choices where 1 was asked for")
        choice = answer["choices"][0]
        if choice.get("index", 0) != 0:
            raise BadAnswer(f"a choice with index {str(choice['index'])[:40]} where 0 was asked for")
        if "token_ids" not in choice or "prompt_token_ids" not in choice:
            if self._gave_ids:
                raise BadAnswer("an answer without token ids")
            raise ValueError(
                f"{self.wire.url}: the server returns no token ids; it must support return_token_ids, as vLLM does"
            )
        if choice["prompt_token_ids"] != list(request.prompt_ids):
            raise BadAnswer("an answer to another prompt")
        ids, reason = self._ids(choice["token_ids"], sampling), choice.get("finish_reason")
        room = (self.context_length or 10**9) - len(request.prompt_ids)
        if len(ids) > room:
            left = f"where the stated context of {self.context_length} leaves {max(room, 0)}"
            raise BadAnswer(f"{len(ids)} tokens {left}")
        if reason not in ("stop", "length") or (reason == "length" and len(ids) < min(sampling.max_new_tokens, room)):
            raise BadAnswer(f"an unfinished answer: {len(ids)} tokens, finish_reason {str(reason)[:40]!r}")
        stated = {ids[-1]} & self._may_end if choice.get("stop_reason") == ids[-1] else set()
        if reason == "stop" and ids[-1] not in {*sampling.stop_token_ids, *self._ends, *stated}:
            raise BadAnswer(f"it says that it stopped, but its last token {ids[-1]} is none to stop at")
        logp = _logp(choice, len(ids)) if logprobs else None
        self._gave_ids = True
        return Completion(request.problem_id, request.draw, ids, reason, logp)

    def _ids(self, ids: Any, sampling: Sampling) -> tuple[int, ...]:
        """The answer's token ids, each of the vocabulary, none after one that ends a completion."""
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < self._vocabulary for i in ids):
            raise BadAnswer("token ids are missing, malformed or beyond the vocabulary")
        if not 0 < len(ids) <= sampling.max_new_tokens:
            raise BadAnswer(f"{len(ids)} tokens where 1 to {sampling.max_new_tokens} were asked for")
        if set(ids[:-1]) & set(end_ids(sampling.stop_token_ids, self.tokenizer.eos_token_id)):
            raise BadAnswer("it goes on after a token to stop at")
        return tuple(ids)


def _logp(choice: dict[str, Any], count: int) -> tuple[float, ...]:
    block = choice.get("logprobs")
    values = block.get("token_logprobs") if isinstance(block, dict) else None
    if not isinstance(values, list) or len(values) != count or not all(map(_is_logp, values)):
        raise BadAnswer("log-probabilities are missing, above 0 or not as many as tokens")
    return tuple(float(v) for v in values)


def _is_logp(value: Any) -> bool:
    """A finite number, at most 0 but for rounding."""
    return type(value) in (int, float) and -1e30 < value < 1e-3


def _own_ends(folder: str | Path) -> list[int]:
    """The end tokens that a model folder's generation_config.json names, where there is one."""
    path = Path(folder) / "generation_config.json"
    return end_ids(read_json(path).get("eos_token_id")) if path.is_file() else []


def _incomplete(failed: Sequence[tuple[Request, Exception]], count: int) -> ValueError:
    named = "; ".join(f"{request.problem_id} draw {request.draw}: {error}" for request, error in failed[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    return ValueError(
        f"{len(failed)} of {count} requests got no usable answer: {named}{more}. All others are done: start the same "
        "command again to ask for these only"
    )


def _arrived(done: queue.Queue[Completion | tuple[Request, Exception]]) -> Iterator[Completion]:
    """What is in the queue now, errors left out."""
    while True:
        try:
            result = done.get_nowait()
        except queue.Empty:
            return
        if isinstance(result, Completion):
            yield result
