"""The testbed's words and the tokenizer built from them: one token a word, one token a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsd_eval.testbed.design import DESIGN, Design

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT, UNKNOWN = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>"
SPECIAL = (PAD, END, USER, ASSISTANT, UNKNOWN)
WORDS = (
    "start", "find", "x", "in", "is", "?", ",", ":", ";", "+", "-", "*", "=", "maybe", "check", "all", "so", "ok",
    "wait", "was", "try", "need", "no", "yes", "ref", "\\boxed{", "}",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ '" + USER + "' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '" + ASSISTANT + "' + message['content'] + '" + END + "' }}"
    "{%- else -%}{{ raise_exception('a testbed base knows the roles user and assistant only') }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + ASSISTANT + "' }}{%- endif -%}"
)


def vocabulary(design: Design = DESIGN) -> dict[str, int]:
    """Token ids: special tokens, words, recovery tags, numbers."""
    words = [*SPECIAL, *WORDS, *design.recovery, *(str(n) for n in range(design.value_max + 1))]
    return {word: index for index, word in enumerate(words)}


def build_tokenizer(design: Design = DESIGN) -> PreTrainedTokenizerFast:
    r"""A word-level tokenizer with chat template; ``decode`` writes ``\boxed{22}`` without inner spaces."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary(design), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([  # type: ignore[assignment]
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Split(Regex(r"\\boxed\{|[-+*=?,:;}]"), "isolated"),
    ])
    tokenizer.decoder = decoders.Sequence([  # type: ignore[assignment]
        decoders.WordPiece(prefix="##", cleanup=False),  # joins words with one space
        decoders.Fuse(),
        decoders.Replace("\\boxed{ ", "\\boxed{"),
        decoders.Replace(" }", "}"),
    ])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, padding_side="left",
        additional_special_tokens=[USER, ASSISTANT], chat_template=CHAT_TEMPLATE, model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
