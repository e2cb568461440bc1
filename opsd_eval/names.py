"""Look a name up in a registry, and suggest the nearest names when it is not there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """The registered value; an unknown name raises ``ValueError`` with the closest names and all allowed ones."""
    if name in registry:
        return registry[name]
    raise ValueError(unknown_name(kind, name, list(registry)))


def unknown_name(kind: str, name: str, allowed: Sequence[str]) -> str:
    """The message for an unknown name: what was given, the closest match, and what is allowed."""
    near = difflib.get_close_matches(str(name), allowed, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Allowed: {', '.join(sorted(allowed))}."
