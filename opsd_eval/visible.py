"""Text with every control character as a picture, so that none acts on a page or a terminal, nor reorders a line."""

from __future__ import annotations

import re

_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str | None) -> str:
    """The text in which control characters are pictures (U+2400 block) and those of direction are named."""
    if text is None:
        return "(no text)"
    return _ACTING.sub(_picture, text)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no file and no data frame takes, written as backslash, u and hex digits."""
    return text.encode("utf-8", "backslashreplace").decode()


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 32:
        return chr(0x2400 + code)
    if 0x202A <= code <= 0x2069:  # overrides and isolates: what follows would be mirrored
        return f"⟨U+{code:04X}⟩"
    return "�"
