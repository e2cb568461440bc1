"""Keep credentials out of what is written: values under telling names, in telling forms, or in the environment.

Records, logs and reports are shared; a key that a user passed on a command line or that a foreign log holds must not
travel with them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

REMOVED = "[removed]"
REMOTE_CODE = "remote code is on: Python files that come with the model run with all your rights and see all your keys"
_NAMES = r"api[_-]?key|secret|passw|credential|authorization|access[_-]?key|private[_-]?key|" \
         r"(?:access|auth|hf|hub|api|bearer|session)[_-]?token"  # fmt: skip
_SECRET = re.compile(rf"{_NAMES}|^token$", re.IGNORECASE)
_SECRET_OPTION = re.compile(rf"^--?(?:[\w.-]*(?:{_NAMES})[\w-]*|token|key)$", re.IGNORECASE)
_ASSIGNED = re.compile(rf"((?:{_NAMES})[\w-]{{0,30}})(=|: ?)(?:bearer )?[^,\s&}}\"']+", re.IGNORECASE)
_IN_QUERY = re.compile(r"([?&](?:key|token|sig|signature)=)[^&\s\"']+", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/\s@]{1,200}@")
_BEARER = re.compile(r"\b(bearer )[\w.~+/-]{8,}=*", re.IGNORECASE)
_FORMS = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|xox[abpr]-[\w-]{10,}"
    r"|AKIA[A-Z0-9]{16}|glpat-[\w-]{16,})"
)


def redact(value: Any) -> Any:
    """A copy without credentials: of a mapping, a list (an argument list too), or a text; anything else as it is."""
    return _redact(value, _of_environment())


def _redact(value: Any, known: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            k: REMOVED if _SECRET.search(str(k)) and v is not None else _redact(v, known) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            REMOVED if isinstance(v, str) and _names_a_secret(before) else _redact(v, known)
            for before, v in zip([None, *value], value, strict=False)
        ]
    return _text(value, known) if isinstance(value, str) else value


def _names_a_secret(word: Any) -> bool:
    """Whether an option such as ``--api-key`` says that the next word is a credential."""
    return isinstance(word, str) and bool(_SECRET_OPTION.match(word))


def _text(text: str, known: Sequence[str]) -> str:
    for secret in known:
        text = text.replace(secret, REMOVED)
    text = _ASSIGNED.sub(rf"\1\2{REMOVED}", _IN_URL.sub(f"://{REMOVED}@", text))
    return _FORMS.sub(REMOVED, _BEARER.sub(rf"\1{REMOVED}", _IN_QUERY.sub(rf"\1{REMOVED}", text)))


def _of_environment() -> list[str]:
    """The credentials in the environment, longest first; short values could be words of their own."""
    found = {v for k, v in os.environ.items() if len(v) >= 8 and re.search(rf"{_NAMES}|token$", k, re.IGNORECASE)}
    return sorted(found, key=len, reverse=True)
