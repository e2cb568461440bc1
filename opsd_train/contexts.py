"""Contexts: which text each role reads before it scores the student's completion.

``role_prompts(problem, tokenizer=, context=, pool=, thinking=, seed=) -> {role: prompt ids}`` (one problem)
``build_prompts(problems, tokenizer=, context=, thinking=, seed=, limit=PromptLimit(...)) -> Prompts``  (all of them)
``require_references(problems, context)`` · ``check_thinking(tokenizer, thinking)``: before any compute

| role | reads | gradient |
|---|---|---|
| student | problem | yes |
| teacher | problem, reference | no |
| reference | reference | no |
| base | exactly the student's ids | no |

| wrong_hint | problem, another problem's reference (only in contexts that ask for it) | no |

A *context* decides what stands where the reference solution goes; a *role* decides what surrounds it. Adding either
is a function and a line in ``CONTEXTS`` or ``ROLE_TEXTS``. A context may also put a question, or what is left of one,
before the reference-only teacher's reference, and may ask for a role beyond the four.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opsd_eval.names import lookup
from opsd_eval.prompts import chat_prompt_ids, question_text, student_prompt_text, style_of
from opsd_eval.records import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# --- what a privileged role reads ---------------------------------------------------------------------------

_SOLUTION = "<<< reference solution\n{reference}\nend of reference solution >>>"


@dataclass(frozen=True)
class Wording:
    """The user's message of the privileged roles; the style's own instruction is appended as for the student."""

    teacher: str
    reference: str


WORDINGS = {
    "boxed": Wording(
        teacher="{question}\n\nA reference solution to this problem is given below.\n\n" + _SOLUTION + "\n\n"
        "Read it until you understand why each step holds. Then set it aside and work the answer out again in your own "
        "words.",
        reference="A reference solution is given below.\n\n" + _SOLUTION + "\n\n"
        "Read it until you understand why each step holds. Then set it aside and work its answer out again in your own "
        "words.",
    ),
    "bare": Wording(teacher="{question} {reference}", reference="{reference}"),
}

RoleText = Callable[[str, str, Wording], str]


def teacher_text(question: str, reference: str, wording: Wording) -> str:
    """Problem and reference. Source: arXiv 2601.18734, the privileged teacher. Differs: our own wording."""
    return wording.teacher.format(question=question, reference=reference).strip()


def reference_text(question: str, reference: str, wording: Wording) -> str:
    """The reference without the problem. Source: arXiv 2607.02234, the reference-only teacher. Differs: wording."""
    return wording.reference.format(reference=reference).strip()


def question_only_text(question: str, reference: str, wording: Wording) -> str:
    """The problem alone: what student and base read. Source: arXiv 2601.18734. Differs: no."""
    return question


ROLE_TEXTS: dict[str, RoleText] = {
    "student": question_only_text,
    "teacher": teacher_text,
    "reference": reference_text,
    "base": question_only_text,
}
ROLES = tuple(ROLE_TEXTS)
WRONG_HINT = "wrong_hint"

# --- what stands where the reference goes -------------------------------------------------------------------

Pick = Callable[[Problem, Sequence[Problem], int], str | None]


@dataclass(frozen=True)
class Context:
    """A named choice of privileged text; ``teacher_reference(problem, pool, seed)`` is None where there is none.

    ``reference_question``: what the reference-only teacher reads in the question's place, in the teacher's wording;
    None: nothing, in its own wording. ``wrong_reference``: what the ``wrong_hint`` role reads; None: no such role.
    ``about``: the function that documents the context, where that is not ``teacher_reference``.
    """

    name: str
    teacher_reference: Pick
    lacks: str
    reference_question: Pick | None = None
    wrong_reference: Pick | None = None
    about: Pick | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have a prompt under this context."""
        return ROLES if self.wrong_reference is None else (*ROLES, WRONG_HINT)

    @property
    def doc(self) -> str:
        """What the context is, and its source."""
        return (self.about or self.teacher_reference).__doc__ or ""


def own_reference(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """The problem's own reference solution. Source: arXiv 2601.18734. Differs: no."""
    return problem.reference or None


def other_reference(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """Control: the reference of another problem of ``pool``, fixed by (seed, problem_id), never the problem's own.

    A hash picks a place in the pool; from there the first problem with another id and another reference text.
    Source: the control of arXiv 2608.09228. Differs: the choice of the other problem is ours.
    """
    other = _another(problem, pool, seed)
    return None if other is None else other.reference


def _another(problem: Problem, pool: Sequence[Problem], seed: int) -> Problem | None:
    if not pool:
        return None
    digest = hashlib.sha256(f"{seed}\0{problem.problem_id}".encode("utf-8", "surrogatepass")).digest()
    start = int.from_bytes(digest[:8], "big")
    for step in range(len(pool)):
        other = pool[(start + step) % len(pool)]
        if other.reference and other.problem_id != problem.problem_id and other.reference != problem.reference:
            return other
    return None


def answer_only(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """Control: the boxed answer without a solution. Source: ours, after arXiv 2601.18734. Differs: answer only."""
    return f"\\boxed{{{problem.answer}}}" if problem.answer else None


def empty_reference(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """Control: the privileged wording around nothing. Source: arXiv 2609.20612. Differs: the wording stays."""
    return ""


def empty_question(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """Control: the reference-only teacher keeps the sentence that mentions a problem, around an empty question.

    On the testbed, whose privileged wording has no sentence, the same as ``reference``.
    Source: ours, wording control for arXiv 2607.02234. Differs: there the wording is not published.
    """
    return ""


def shuffled_question(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """Control: the reference-only teacher also reads the question's words, in an order fixed by (seed, problem_id).

    Source: ours, wording control for arXiv 2607.02234. Differs: reads the question's words, not nothing.
    """
    words = problem.question.split()
    random.Random(f"{seed}/{problem.problem_id}").shuffle(words)
    return " ".join(words)


def other_question(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """Control: the reference-only teacher reads another problem's question before this problem's reference.

    Source: ours, wording control for arXiv 2607.02234. Differs: reads a question that is not this one.
    """
    other = _another(problem, pool, seed)
    return None if other is None else other.question


def right_and_wrong(problem: Problem, pool: Sequence[Problem], seed: int) -> str | None:
    """The problem's own reference, and for the role ``wrong_hint`` that of another problem.

    Source: the right-hint and wrong-hint teachers of arXiv 2606.11709. Differs: another problem's reference stands
    for a wrong hint.
    """
    return own_reference(problem, pool, seed)


CONTEXTS: dict[str, Context] = {
    "reference": Context("reference", own_reference, "a reference solution"),
    "other_reference": Context("other_reference", other_reference, "another problem with a different reference"),
    "answer_only": Context("answer_only", answer_only, "an answer"),
    "empty_reference": Context("empty_reference", empty_reference, "nothing"),
    "empty_question": Context(
        "empty_question", own_reference, "a reference solution", reference_question=empty_question, about=empty_question
    ),
    "shuffled_question": Context(
        "shuffled_question", own_reference, "a reference solution", reference_question=shuffled_question,
        about=shuffled_question,
    ),
    "other_question": Context(
        "other_question", own_reference, "a reference solution", reference_question=other_question, about=other_question
    ),
    "right_and_wrong": Context(
        "right_and_wrong", right_and_wrong, "a reference solution", wrong_reference=other_reference
    ),
}  # fmt: skip


def require_references(
    problems: Sequence[Problem], context: str, *, pool: Sequence[Problem] | None = None, seed: int = 0
) -> None:
    """Raise ``ValueError`` naming every problem the context has no text for. Call it before any compute."""
    found = lookup("context", context, CONTEXTS)
    pool = problems if pool is None else pool
    picks = [found.teacher_reference, *(p for p in (found.reference_question, found.wrong_reference) if p is not None)]
    missing = [p.problem_id for p in problems if any(pick(p, pool, seed) is None for pick in picks)]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise ValueError(
            f"context {context!r} needs {found.lacks} for every problem; {len(missing)} of {len(problems)} have none: "
            f"{shown}. Give them one, leave them out, or use the context 'empty_reference'."
        )


# --- prompts ------------------------------------------------------------------------------------------------


def role_texts(problem: Problem, *, context: str, pool: Sequence[Problem], seed: int) -> dict[str, str]:
    """The user's message of every role, before the chat template; base has exactly the student's."""
    require_references([problem], context, pool=pool, seed=seed)
    chosen = CONTEXTS[context]
    reference = chosen.teacher_reference(problem, pool, seed) or ""
    wording = WORDINGS[style_of(problem).kind]
    bodies = {role: text(problem.question, reference, wording) for role, text in ROLE_TEXTS.items()}
    if chosen.reference_question is not None:
        question = chosen.reference_question(problem, pool, seed) or ""
        bodies["reference"] = teacher_text(question, reference, wording)
    if chosen.wrong_reference is not None:
        wrong = chosen.wrong_reference(problem, pool, seed) or ""
        bodies[WRONG_HINT] = teacher_text(problem.question, wrong, wording)
    return {role: question_text(replace(problem, question=body)) for role, body in bodies.items()}


def role_prompts(
    problem: Problem,
    *,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    pool: Sequence[Problem],
    thinking: Mapping[str, bool | None],
    seed: int,
) -> dict[str, list[int]]:
    """Prompt ids of every role for one problem, generation prompt included.

    ``thinking``: the chat template's switch by role; a missing role takes the template's default, base always takes
    the student's. Roles whose completions would begin on different sides of ``<think>`` are an error.
    """
    check_thinking(tokenizer, thinking)
    texts = role_texts(problem, context=context, pool=pool, seed=seed)
    thinking = {WRONG_HINT: thinking.get("teacher"), **thinking}
    prompts = {
        role: chat_prompt_ids(tokenizer, text, thinking=thinking.get(role))
        for role, text in texts.items()
        if role != "base"
    }
    return prompts | {"base": list(prompts["student"])}


def thinking_state(tokenizer: PreTrainedTokenizerBase, thinking: bool | None) -> str:
    """Where a completion begins under this switch: ``inside``, ``after`` or ``before`` a thinking block.

    Read off the chat template's text after the user's message: a ``<think>`` left open, one that was closed, or none.
    """
    mark = "\ue002message\ue003"
    text = student_prompt_text(tokenizer, Problem("", mark), thinking=thinking, style="bare")
    tail = text.rpartition(mark)[2]
    opened, closed = tail.rfind("<think>"), tail.rfind("</think>")
    if opened == closed == -1:
        return "before"
    return "inside" if opened > closed else "after"


def check_thinking(tokenizer: PreTrainedTokenizerBase, thinking: Mapping[str, bool | None]) -> None:
    """Raise ``ValueError`` unless every role's first completion token stands in the same place.

    All roles score the same completion. If the student's prompt has closed its thinking block and the teacher's has
    not, the teacher expects ``<think>`` where the student begins its answer, and the first tokens teach nonsense.
    """
    if unknown := sorted(set(thinking) - set(ROLE_TEXTS)):
        raise ValueError(f"thinking names unknown roles {unknown}; roles are {list(ROLE_TEXTS)}")
    switches = {role: thinking.get(role) for role in ROLE_TEXTS if role != "base"}
    if len(set(switches.values())) == 1:
        return
    states = {role: thinking_state(tokenizer, switch) for role, switch in switches.items()}
    for role, state in states.items():
        if state != states["student"]:
            raise ValueError(
                f"the student's completion begins {states['student']} its thinking block (thinking="
                f"{switches['student']}), but the {role}'s prompt expects it {state} one (thinking={switches[role]}). "
                "Every role scores the same completion, so the first token must stand in the same place: set the same "
                "thinking switch for both."
            )


@dataclass(frozen=True)
class PromptLimit:
    """Longest prompt any role may have, and what happens beyond: ``error`` or ``skip`` (counted). Never cut."""

    max_tokens: int | None = None
    policy: str = "error"

    def __post_init__(self) -> None:
        lookup("policy for long prompts", self.policy, {"error": 0, "skip": 0})
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; give 1 or more, or None for no limit")

    def allows(self, problem_id: str, prompts: Mapping[str, Sequence[int]]) -> bool:
        """Whether all prompts fit; under ``error`` a prompt that does not fit raises, naming problem and role."""
        if self.max_tokens is None:
            return True
        role = max(prompts, key=lambda name: len(prompts[name]))
        if len(prompts[role]) <= self.max_tokens:
            return True
        if self.policy == "skip":
            return False
        raise ValueError(
            f"problem {problem_id!r}: the {role}'s prompt has {len(prompts[role])} tokens, the limit is "
            f"{self.max_tokens}. Raise the limit, or choose the policy 'skip', which leaves such problems out and "
            "counts them."
        )


@dataclass(frozen=True)
class Prompts:
    """Prompt ids by problem and role, and the ids of problems skipped for length."""

    by_problem: Mapping[str, Mapping[str, list[int]]]
    skipped: tuple[str, ...]


def build_prompts(
    problems: Sequence[Problem],
    *,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    thinking: Mapping[str, bool | None],
    seed: int,
    limit: PromptLimit | None = None,
) -> Prompts:
    """Prompts of every problem and role; the pool of other references is ``problems`` itself, in this order."""
    require_references(problems, context, seed=seed)
    limit = limit or PromptLimit()
    kept: dict[str, dict[str, list[int]]] = {}
    skipped: list[str] = []
    for problem in problems:
        prompts = role_prompts(
            problem, tokenizer=tokenizer, context=context, pool=problems, thinking=thinking, seed=seed
        )
        if limit.allows(problem.problem_id, prompts):
            kept[problem.problem_id] = prompts
        else:
            skipped.append(problem.problem_id)
    return Prompts(kept, tuple(skipped))
