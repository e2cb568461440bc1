"""From a problem to the student's prompt token ids: the only place where a prompt is made.

Training, sampling and the harness tasks all call these functions, so one problem has one prompt. A question is
untrusted text: a control token written inside it (``<|im_end|>``) is encoded as plain characters and can neither
close the user's turn nor open another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opsd_eval.names import lookup
from opsd_eval.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ue000user text\ue001"  # private-use characters: no template and no real question contains them


@dataclass(frozen=True)
class PromptStyle:
    """How a question becomes the user's message; ``question`` is a format string with ``{question}``.

    ``kind`` is ``boxed`` or ``bare``: how privileged roles and forced answers are worded around it.
    """

    name: str
    question: str
    kind: str


STYLES = {
    "boxed": PromptStyle(
        "boxed", "{question}\n\nThink it through step by step, then write the final answer inside \\boxed{{}}.", "boxed"
    ),
    "bare": PromptStyle("bare", "{question}", "bare"),
    # For models too small to follow an instruction: the question in its own words; privileged roles read as in boxed.
    "plain": PromptStyle("plain", "{question}", "boxed"),
}
_STYLE_KEY = "prompt_style"  # where a problem's metadata names a style other than its benchmark's


def style_of(problem: Problem) -> PromptStyle:
    """The style that the problem names, else ``bare`` for the testbed (no instructions), ``boxed`` for the rest."""
    implied = "bare" if problem.benchmark.startswith("testbed.") else "boxed"
    return lookup("prompt style", str(problem.metadata.get(_STYLE_KEY, implied)), STYLES)


def styled(problem: Problem, style: str) -> Problem:
    """The problem with a style of its own, which training, sampling and the harness then all use."""
    lookup("prompt style", style, STYLES)
    return replace(problem, metadata={**problem.metadata, _STYLE_KEY: style})


def question_text(problem: Problem, style: PromptStyle | str | None = None) -> str:
    """The user's message for a problem, in the given style or the one its benchmark implies."""
    if isinstance(style, str):
        style = lookup("prompt style", style, STYLES)
    return (style or style_of(problem)).question.format(question=problem.question)


def student_prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    *,
    thinking: bool | None = None,
    style: PromptStyle | str | None = None,
) -> list[int]:
    """Token ids of the student's prompt: the question in the chat template, generation prompt included."""
    return chat_prompt_ids(tokenizer, question_text(problem, style), thinking=thinking)


def student_prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    *,
    thinking: bool | None = None,
    style: PromptStyle | str | None = None,
) -> str:
    """The same prompt as text, for people to read. Never encode it again: use :func:`student_prompt_ids`."""
    return _render(tokenizer, question_text(problem, style), thinking)


def chat_prompt_ids(
    tokenizer: PreTrainedTokenizerBase, user_text: str, *, thinking: bool | None = None
) -> list[int]:
    """Token ids of one user message in the tokenizer's chat template, with the generation prompt.

    Equal to ``tokenizer.apply_chat_template`` unless that would turn a part of ``user_text`` into a control token;
    then the text is encoded in pieces that cut each such token in two. ``thinking`` is the template's
    ``enable_thinking`` and is passed only when it is not ``None``. No chat template: ``ValueError``.
    """
    shell = _shell(tokenizer, thinking, _template_source(tokenizer), len(tokenizer))
    guarded = control_token_ids(tokenizer)
    if str(tokenizer.unk_token) not in user_text:  # any unknown word becomes this token
        guarded = {i: token for i, token in guarded.items() if i != tokenizer.unk_token_id}
    ids = list(_template(tokenizer, user_text, thinking, tokenize=True))
    if _count(ids, guarded) == sum(_count(part, guarded) for part in shell):
        return ids
    text = user_text if _keeps_outer_spaces(tokenizer, thinking) else user_text.strip()
    message = _plain_ids(tokenizer, text, guarded)
    ids = list(shell[0])
    for part in shell[1:]:
        ids += message + list(part)
    return ids


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Tokens that a user's text may not become: the special ones, and added ones that the chat template writes."""
    template = _template_source(tokenizer)
    return {
        token_id: token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (token.special or token.content in template)
    }


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str, guarded: dict[int, str]) -> list[int]:
    """Encode text so that none of the guarded tokens appears: every occurrence is cut after its first character."""
    pattern = re.compile("|".join(re.escape(token) for token in sorted(guarded.values(), key=len, reverse=True)))
    pieces, start, at = [], 0, 0
    while match := pattern.search(text, at):
        at = match.start() + 1
        pieces.append(text[start:at])
        start = at
    pieces.append(text[start:])
    ids = [token_id for piece in pieces if piece for token_id in _encode(tokenizer, piece)]
    if found := sorted({guarded[i] for i in ids if i in guarded} - {str(tokenizer.unk_token)}):
        raise ValueError(
            f"the user text contains the control tokens {found}, which this tokenizer cannot write as plain text; "
            "remove them from the problem's question"
        )
    return ids


@lru_cache(maxsize=8)
def _shell(
    tokenizer: PreTrainedTokenizerBase, thinking: bool | None, template: str, size: int
) -> tuple[tuple[int, ...], ...]:
    """Token ids of what the template writes around the user's text; another template or more tokens are read anew."""
    parts = _render(tokenizer, _MARK, thinking).split(_MARK)
    if len(parts) < 2:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} leaves the user's message out; pass a tokenizer whose "
            "template prints messages of the role 'user'"
        )
    return tuple(tuple(_encode(tokenizer, part)) for part in parts)


def _keeps_outer_spaces(tokenizer: PreTrainedTokenizerBase, thinking: bool | None) -> bool:
    return f" {_MARK} " in _render(tokenizer, f" {_MARK} ", thinking)


def _count(ids: Sequence[int], guarded: dict[int, str]) -> int:
    return sum(token_id in guarded for token_id in ids)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]


def _render(tokenizer: PreTrainedTokenizerBase, user_text: str, thinking: bool | None) -> str:
    return _template(tokenizer, user_text, thinking, tokenize=False)


def _template(tokenizer: PreTrainedTokenizerBase, user_text: str, thinking: bool | None, *, tokenize: bool) -> Any:
    _template_source(tokenizer)
    options: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    if tokenize:
        options["return_dict"] = False
    messages = [{"role": "user", "content": user_text}]
    return tokenizer.apply_chat_template(messages, tokenize=tokenize, add_generation_prompt=True, **options)


def _template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template's text; a tokenizer without one is an error that says what to pass."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, so a question cannot become a prompt; "
            "use an instruction-tuned model, or save the tokenizer with tokenizer.chat_template set (a "
            "chat_template.jinja file beside tokenizer.json)"
        )
    return template
