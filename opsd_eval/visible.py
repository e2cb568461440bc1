"""Text with every control character as a picture, so that none acts on a page or a terminal, nor reorders a line."""

from __future__ import annotations


def visible(text: str | None) -> str:
    """The text in which control characters are pictures (U+2400 block) and those of direction are named."""
    if text is None:
        return "(no text)"
    return "".join(_picture(c) for c in text)


def encodable(text: str) -> str:
    """The text with lone surrogates, which no file and no data frame takes, written as backslash, u and hex digits."""
    return text.encode("utf-8", "backslashreplace").decode()


def _picture(c: str) -> str:
    code = ord(c)
    if code < 32 and c not in "\n\t":
        return chr(0x2400 + code)
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:  # overrides and isolates: what follows would be mirrored
        return f"⟨U+{code:04X}⟩"
    return "�" if code == 127 or 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000 else c
