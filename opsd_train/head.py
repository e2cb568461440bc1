"""The output head and its two matrix products, block by block, always in float32 or better.

``head_of(model, vocab_size=...) -> Head(weight, bias, vocab_size)`` · ``project(rows, out=...)`` (logits)
``project_back(grad_logits, head)`` (gradient by the hidden states) · ``add_head_gradient(...)`` (by the weight)

Legend: V real vocabulary, D hidden size, C positions of a block. A head in half precision is widened panel by
panel, so its float32 copy never exists whole, and logits are never rounded to bfloat16. On a GPU a bfloat16 head is
not widened at all: its products run on the tensor cores with float32 sums, and the float32 factor of a gradient
product enters as the sum of two bfloat16 terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PANEL_BYTES = 8 << 20
_LARGE = 1 << 20  # entries of a weight from which the overhead of a call of oneDNN (0.1 ms) does not count
_WIDE = 1536  # hidden sizes from which oneDNN is the faster one on the way back, too
_KEPT: list[int] = []  # filled once by keep_freed_memory


@dataclass(frozen=True)
class Head:
    """Output head: ``weight`` (≥ V, D), optional ``bias`` (≥ V,), and the number V of real vocabulary rows.

    Rows from V on are padding: they get no probability, enter no mean and receive no gradient.
    """

    weight: Tensor
    bias: Tensor | None = None
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        rows = self.weight.shape[0]
        if self.vocab_size is not None and not 0 < self.vocab_size <= rows:
            raise ValueError(
                f"vocab_size is {self.vocab_size} but the output head has {rows} rows; the tokenizer and the model "
                "do not belong together, or the embeddings were not resized"
            )

    @property
    def size(self) -> int:
        """The number V of real vocabulary entries."""
        return self.weight.shape[0] if self.vocab_size is None else self.vocab_size

    @property
    def trained(self) -> bool:
        """Whether the weight or the bias collects a gradient."""
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def detached(self) -> Head:
        """The same numbers without gradient."""
        return Head(self.weight.detach(), None if self.bias is None else self.bias.detach(), self.vocab_size)


# Settings of model families whose logits are not `hidden @ weight.T + bias`: (config key, value that means off).
_UNSUPPORTED = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
    "mup_width_multiplier": 1.0,
}


def head_of(model: nn.Module, *, vocab_size: int | None = None) -> Head:
    """The output head of a Hugging Face causal LM (peft-wrapped or not) as plain tensors.

    ``vocab_size``: real entries, e.g. :func:`real_vocab_size`; None counts every row as real. Raises ``ValueError``
    for heads whose logits are not a plain matrix product: softcapped or scaled logits, or LoRA on the head itself.
    """
    config: Any = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None else None
    for key, off in _UNSUPPORTED.items():
        value = getattr(text_config, key, off)
        if value is not None and value != off:
            raise ValueError(
                f"{type(model).__name__} has {key}={value} in its config: its logits are not hidden @ weight.T, which "
                "the chunked loss computes. Models with capped or scaled logits (Gemma 2, Cohere, Granite) are not "
                "supported."
            )
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    if layer is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings; pass a causal language model")
    if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
        raise ValueError(
            f"the output head is a {type(layer).__name__}; the chunked loss needs a plain linear layer. Leave the "
            "output head (lm_head) out of the LoRA target modules, of modules_to_save and of quantisation."
        )
    return Head(layer.weight, layer.bias, vocab_size)


def real_vocab_size(tokenizer: Any) -> int:
    """One above the largest token id the tokenizer knows; rows of the head from there on are padding."""
    return max(tokenizer.get_vocab().values()) + 1


def keep_freed_memory(device: torch.device) -> None:
    """Ask glibc, once, to keep freed blocks of up to 31 MiB instead of returning them to the system.

    Freeing one such block (never touched) raises malloc's threshold for mapping memory anew. Without it every
    temporary of a few MiB is mapped, zeroed page by page and unmapped again, which takes several times longer than
    the arithmetic on it. Elsewhere than on glibc this does nothing.
    """
    if device.type == "cpu" and not _KEPT:
        _KEPT.append(torch.empty(31 << 20, dtype=torch.uint8).numel())


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any input is, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _panels(head: Head, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The real rows of the weight in ``dtype``: one view if it has that type, else panels in one reused buffer.

    A panel is valid until the next one is asked for.
    """
    weight = head.weight.detach()
    if weight.dtype == dtype:
        yield slice(0, head.size), weight[: head.size]
        return
    rows = min(head.size, max(1, _PANEL_BYTES // (weight.shape[1] * dtype.itemsize)))
    buffer = torch.empty((rows, weight.shape[1]), dtype=dtype, device=weight.device)
    for start in range(0, head.size, rows):
        stop = min(start + rows, head.size)
        yield slice(start, stop), buffer[: stop - start].copy_(weight[start:stop])


def on_tensor_cores(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of a ``dtype`` result read this weight as it is: bfloat16 on a GPU, for float32."""
    return weight.is_cuda and weight.dtype == torch.bfloat16 and dtype == torch.float32


def bfloat16_terms(values: Tensor) -> list[Tensor]:
    """bfloat16 tensors whose sum is ``values``: themselves, or two for float32, exact to 2⁻¹⁸ of each entry."""
    if values.dtype == torch.bfloat16:
        return [values]
    large = values.to(torch.bfloat16)
    return [large, (values - large).to(torch.bfloat16)]


def _half_product(one: Tensor, other: Tensor, *, out: Tensor, add: bool) -> None:
    """``out`` (float32) = or += one @ other of bfloat16 factors, with float32 sums."""
    if add:
        torch.addmm(out, one, other, out_dtype=torch.float32, out=out)
    else:
        torch.mm(one, other, out_dtype=torch.float32, out=out)


def _product(one: Tensor, other: Tensor, *, out: Tensor, add: bool = False) -> Tensor:
    """``out`` (float32) = or += one @ other on the tensor cores; ``other`` is bfloat16, ``one`` its terms' sum."""
    for term in bfloat16_terms(one):
        _half_product(term, other, out=out, add=add)
        add = True
    return out


def _onednn(weight: Tensor, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The product ``rows @ weight.T`` of oneDNN, as torch has it for its compiler, where it is worth it; else None.

    For large products in float32 on a CPU: on AMD it takes two thirds of the BLAS's time, elsewhere about the same.
    """
    large = weight.numel() >= _LARGE and rows.numel() and rows.device.type == "cpu" and rows.dtype == torch.float32
    if not large or not torch.backends.mkldnn.is_available():
        return None
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if found is None else lambda rows, weight: found(rows, weight, None, "none", [], "")


def _scores(rows: Tensor, weight: Tensor, *, out: Tensor) -> None:
    """``out`` = rows @ weight.T."""
    product = _onednn(weight, rows)
    if product is None:
        torch.mm(rows, weight.T, out=out)
        return
    step = max(1, _PANEL_BYTES // (4 * len(rows)))  # the product has no place to write to, so a part at a time
    for start in range(0, len(weight), step):
        out[:, start : start + step] = product(rows, weight[start : start + step])


def _back(grad: Tensor, weight: Tensor) -> Tensor:
    """The product grad @ weight; through oneDNN in pieces of 2,048 vocabulary entries, for which it is fastest."""
    product = _onednn(weight, grad) if weight.shape[1] >= _WIDE else None
    if product is None:
        return grad @ weight
    total = grad.new_zeros(len(grad), weight.shape[1])
    for start in range(0, len(weight), 2048):
        total += product(grad[:, start : start + 2048], weight[start : start + 2048].T)
    return total


def project(hidden: Tensor, head: Head, *, out: Tensor) -> Tensor:
    """Logits (C, V) of hidden states (C, D) over the real vocabulary, written into ``out``."""
    hidden, weight = hidden.detach(), head.weight.detach()
    if on_tensor_cores(weight, out.dtype):
        _product(hidden, weight[: head.size].T, out=out)
    else:
        hidden = hidden.to(out.dtype)
        for rows, panel in _panels(head, out.dtype):
            _scores(hidden, panel, out=out[:, rows])
    if head.bias is not None:
        out += head.bias.detach()[: head.size]
    return out


def project_roles(
    hidden: Mapping[str, Tensor], heads: Mapping[str, Head], roles: Sequence[str], *, out: Tensor
) -> None:
    """Logits of several roles' (C, D) blocks into ``out`` (R, C, V); neighbours with one head share one product."""
    first = 0
    while first < len(roles):
        last = first + 1
        while last < len(roles) and _same(heads[roles[first]], heads[roles[last]]):
            last += 1
        rows = torch.cat([hidden[role].detach() for role in roles[first:last]])
        project(rows, heads[roles[first]], out=out[first:last].view(-1, out.shape[-1]))
        first = last


def _same(one: Head, other: Head) -> bool:
    def place(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    return (place(one.weight), place(one.bias), one.size) == (place(other.weight), place(other.bias), other.size)


def project_back(grad_logits: Tensor, head: Head) -> Tensor:
    """Gradient by the hidden states, (C, V) @ (V, D), in the gradient's own precision."""
    weight = head.weight.detach()
    if on_tensor_cores(weight, grad_logits.dtype):
        found = grad_logits.new_empty((grad_logits.shape[0], weight.shape[1]))
        return _product(grad_logits, weight[: head.size], out=found)
    total = None
    for rows, panel in _panels(head, grad_logits.dtype):
        part = _back(grad_logits[:, rows], panel)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def add_head_gradient(grad_logits: Tensor, hidden: Tensor, *, weight: Tensor | None, bias: Tensor | None) -> None:
    """Add one block's gradient to the buffers of the head's weight (≥ V, D) and bias (≥ V,), where given."""
    size, hidden = grad_logits.shape[1], hidden.detach()
    if weight is not None and on_tensor_cores(hidden, weight.dtype):
        _product(grad_logits.T, hidden, out=weight[:size], add=True)
    elif weight is not None:
        weight[:size].addmm_(grad_logits.T, hidden.to(grad_logits.dtype))
    if bias is not None:
        bias[:size] += grad_logits.sum(0)
