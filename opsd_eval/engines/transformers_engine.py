"""The transformers engine: batched decoding in this process, with weights that may change between calls.

Three ways compute the same distribution: the C loop for small models on CPU (kernel.py), the flat loop where that does
not apply (flat.py), the library's forward pass for everything else (generic.py). Every row draws from its own stream.
The C loop gives a row the same bits in any company; in the other two the rounding of the logits depends on the batch's
shape, so that a row can differ between two batchings where a random number falls within that rounding of a boundary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.engines.base import Completion, Request, Sampling, check_requests, end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformersEngine:
    """Generates with a loaded transformers (or peft) model; its weights are read anew at every ``generate``.

    ``batch_size`` is the number of rows decoded together (default 64). Tokens beyond the tokenizer's vocabulary
    (padding rows of the output head) are never sampled and carry no probability.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int | None = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.vocabulary = min(max(tokenizer.get_vocab().values()) + 1, model.config.get_text_config().vocab_size)

    @property
    def context_length(self) -> int | None:
        """The model's greatest number of positions, where its config states one."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @classmethod
    def from_path(
        cls, path: str | Path, *, adapter: str | Path | None = None, dtype: Any = "auto", device: str | None = None,
        batch_size: int | None = None, trust_remote_code: bool = False,
    ) -> TransformersEngine:  # fmt: skip
        """Load model, tokenizer and adapter from disk or hub; see :func:`opsd_eval.engines.loading.load_model`."""
        from opsd_eval.engines.loading import load_model, load_tokenizer

        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        model = load_model(
            path, adapter=adapter, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        return cls(model, tokenizer, batch_size=batch_size)

    def generate(
        self, requests: Iterable[Request], *, sampling: Sampling, logprobs: bool = False
    ) -> Iterator[Completion]:
        """Yield one completion for every request, as rows finish; the model's train/eval mode is put back after."""
        found = check_requests(requests)
        training = self.model.training
        self.model.eval()
        try:
            yield from self._run(found, sampling, logprobs)
        finally:
            self.model.train(training)

    def _run(self, requests: list[Request], sampling: Sampling, logprobs: bool) -> Iterator[Completion]:
        """The C loop or the flat loop for small models on CPU, the library's forward pass for the rest."""
        from opsd_eval.engines.flat import FlatDecoder, is_flat
        from opsd_eval.engines.generic import GenericDecoder
        from opsd_eval.engines.kernel import Kernel, kernel_covers
        from opsd_eval.engines.scheduler import decode

        own_ends = self.model.generation_config.eos_token_id  # type: ignore[union-attr]
        stop = end_ids(sampling.stop_token_ids, own_ends, self.tokenizer.eos_token_id)
        decoder = (FlatDecoder if is_flat(self.model) else GenericDecoder)(self.model, self.vocabulary)
        longest = max((len(r.prompt_ids) for r in requests), default=0)
        if self.context_length is not None and longest >= self.context_length:
            name = next(r.problem_id for r in requests if len(r.prompt_ids) == longest)
            raise ValueError(
                f"the prompt of problem {name!r} has {longest} tokens, the model's context is {self.context_length}; "
                "leave the problem out or use a model with a longer context"
            )
        if isinstance(decoder, FlatDecoder) and kernel_covers(decoder, sampling, longest):
            kernel = Kernel(decoder, longest + sampling.max_new_tokens)
            size = self.batch_size or 48
            yield from kernel.generate(requests, sampling=sampling, stop=stop, logprobs=logprobs, batch_size=size)
            return
        size = self.batch_size or 64
        yield from decode(decoder, requests, sampling=sampling, stop=stop, batch_size=size, logprobs=logprobs)
