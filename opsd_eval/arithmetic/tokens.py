r"""Cut text into the few kinds of token that arithmetic needs. One pass of one regular expression, linear in the text.

Kinds: ``n`` number, ``o`` operator, ``(`` and ``)`` any bracket, ``f`` a LaTeX fraction command, ``r`` a root sign,
``%`` percent sign, ``!`` factorial, ``^`` a raised digit, ``w`` word, ``x`` anything that makes its surroundings
unreadable (a clock time, a version, ``\pi``, ``...``), ``b`` a break between clauses. Spaces, currency signs, dollar
delimiters and layout commands give no token.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: Characters that some languages or typesetters write for ASCII ones; replaced one for one, so positions stay.
_SAME = str.maketrans(
    {
        "\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u2219": "*", "\u2217": "*", "\u2715": "*", "\u00f7": "\u00f7",
        "\u2212": "-", "\u2013": "-", "\u2044": "/", "\u2215": "/", "\uff0b": "+", "\uff0d": "-", "\uff1d": "=",
        "\uff08": "(", "\uff09": ")", "\uff05": "%", "\u2243": "\u2248", "\u2245": "\u2248", "\u00a0": " ",
        "\u202f": " ", "\u2009": " ", "\u2019": "'", "\uff0f": "/", "\uff0a": "*",
    }
)  # fmt: skip

SUPERSCRIPTS = {sign: digit for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}

_PATTERN = re.compile(
    r"""
    (?:[$\u20ac\xa3\u00a5&`~\ \t\r\f\v]|\\(?:left|right|displaystyle|limits|quad|qquad|[bB]igg?[lr]?|boxed|fbox)
      (?![A-Za-z])|\\[$()\[\],;:!\ {}])*
    (?:
    (?P<odd>\d+(?:\.\d+){2,}|\d+(?::\d+)+|\d{4}-\d\d-\d\d(?!\d)|\d+(?:st|nd|rd|th)\b
      |(?!\d{1,3}(?:,\d{3})+(?!,?\d))\d+(?:,\d+)+)
   |(?P<n>(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?!\w))?|\.\d+)
   |(?P<raised>[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+)
   |(?P<vulgar>[\xbc-\xbe\u2150-\u215e])
   |(?P<w>[^\W\d_\xb2\xb3\xb9\u2070-\u209c]+(?:'[a-z]{1,2}\b)?)
   |(?P<degree>\^?\{?\\circ\}?|\N{DEGREE SIGN})
   |(?P<o>\*\*|\\\*|[-+*/^\u00f7]|\\(?:times|cdot|div|ast)(?![A-Za-z]))
   |(?P<open>[(\[{])
   |(?P<close>[)\]}])
   |(?P<p>\\?%)
   |(?P<dots>\.{2,}|\u2026|\\[lcd]?dots(?![A-Za-z]))
   |(?P<bang>!(?=\s*(?:[-+*/^)}\u00f7]|\\(?:times|cdot|div)|\Z)|\d))
   |(?P<text>\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|operatorname)\s?\{[^{}\n]{0,200}\})
   |(?P<f>\\[dtc]?frac(?![A-Za-z]))
   |(?P<r>\\sqrt(?![A-Za-z]|\s?\[)|\u221a)
   |(?P<b>\\\\|\n|\\(?:leq?|geq?|neq?|lt|gt|implies|Rightarrow|Longrightarrow|iff|to|rightarrow|therefore|item)(?![A-Za-z])
      |\\(?:begin|end)\{\w{1,20}\*?\}|[.,;:?!|<>"\#'\u2014\u2022\u2192\u21d2\u21d4\u2234\u2235\u2260\u2261\u2264\u2265\u27f9\u3001\u3002]
      |[\u201c\u201d\uff01\uff0c\uff1a\uff1b\uff1f\u2500-\u27bf\U0001f300-\U0001faff])
   |(?P<end>\Z)
   |(?P<x>\\[A-Za-z]+|.)
    )
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    """Kind, text, and where it stands in the block."""

    kind: str
    text: str
    start: int
    end: int


#: The asterisks of bold type (a power has the same spacing on both sides).
_BOLD = re.compile(r"(?<![\w)*])\*\*(?=[^\s*])|(?<=[^\s*])\*\*(?![\w(*])")


def plain(text: str) -> str:
    """The text with look-alike signs replaced by ASCII ones and bold type taken off; the length stays the same."""
    if not text.isascii():
        text = text.translate(_SAME)
    return _BOLD.sub("  ", text) if "**" in text else text


def tokenise(text: str, start: int, end: int) -> list[Token]:
    """Tokens of ``text[start:end]`` (already passed through :func:`plain`)."""
    tokens: list[Token] = []
    for match in _PATTERN.finditer(text, start, end):
        name = match.lastgroup
        assert name is not None
        if name == "end":
            break
        at, stop = match.span(name)
        kind, content = _KINDS.get(name, name), match.group(name)
        if name == "text":
            content = content[content.index("{") + 1 : -1].strip()
            kind = "w" if content else "b"
        tokens.append(Token(kind, content, at, stop))
    return tokens


_KINDS = {
    "p": "%", "open": "(", "close": ")", "raised": "^", "bang": "!", "dots": "x", "degree": "w", "odd": "x",
    "vulgar": "n",
}  # fmt: skip
