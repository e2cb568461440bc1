r"""Find the answer in a completion and say, where that needs no algebra, whether it equals the gold answer.

*Strict* is the content of the last balanced, non-empty ``\boxed{}``, or, in a text without one, a last line
``#### number`` (the format of GSM8K). *Relaxed* falls back to a box left open at the end, then to the last stated
answer ("the answer is ..."), then to the last number. Everything here is linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

MAX_ANSWER_CHARS = 4096
MAX_DIGITS = 256
_TAIL_CHARS = 20_000

_BRACES = re.compile(r"\\boxed\s{0,8}\{|\\[{}]|[{}]")
_STATED = re.compile(
    r"####|(?:answer|result|solution)\s{0,3}(?:is|:|=)|(?:答案|结果)\s{0,3}(?:是|为|:|\uff1a)", re.IGNORECASE
)
_HASHES = re.compile(r"(?:^|\n)#### {0,4}\$?(-?\d[\d,]{0,60}(?:\.\d{1,60})?)$")
_CHOICE = re.compile(r"\(?([A-J])\)?(?=[.,:;\s)]|$)")
#: A pair, interval or set; a time; a power: what a number alone would be only the beginning of.
_GROUP = re.compile(
    r"[(\[{][^()\[\]{}\n]{1,200}[,;][^()\[\]{}\n]{1,200}[)\]}]|\d{1,2}:\d\d(?!\d)"
    r"|\d{1,64}\^(?:\d{1,9}|\{[^{}\n]{1,40}\})"
)
_NUMBER = re.compile(
    r"(?<![\w.)}\]])[-\u2212]?\\[dt]?frac\{[-\u2212]?\d{1,64}\}\{\d{1,64}\}"
    r"|(?:(?<![\w.)}\]])[-\u2212])?(?<![\w.])\d{1,256}(?:,\d{3}(?!\d))*(?:\.\d{1,256})?(?:/\d{1,64}(?![\d/]))?"
)


def extract_boxed(text: str) -> str | None:
    r"""Content of the last balanced, non-empty ``\boxed{}``; ``None`` when there is none.

    "Last" is the box that starts last, so a corrected answer wins and of nested boxes the inner one. A box cut off
    by the end of the text is not balanced and is passed over; ``\fbox`` and a brace-less ``\boxed 5`` do not count.
    """
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    return _last_balanced_box(text[start:]) or _last_balanced_box(text)


def _last_balanced_box(text: str) -> str | None:
    """Content of the balanced non-empty box that starts last; one pass with a stack."""
    opened: list[tuple[int, bool]] = []
    spans: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "{":
            opened.append((match.end(), False))
        elif token == "}":
            if opened:
                at, is_box = opened.pop()
                if is_box:
                    spans.append((at, match.start()))
        elif token.startswith("\\boxed"):
            opened.append((match.end(), True))
    for start, end in sorted(spans, reverse=True):
        if content := text[start : min(end, start + MAX_ANSWER_CHARS)].strip():
            return content
    return None


def extract_strict(text: str) -> str | None:
    """The answer in an asked-for format: the last balanced box, else a last line ``#### number``."""
    boxed = extract_boxed(text)
    if boxed is not None:
        return boxed
    match = _HASHES.search(text.rstrip()[-200:])
    return match[1] if match else None


def extract_relaxed(text: str) -> str | None:
    r"""The strict answer, else an unclosed last box, else the last stated answer, else the last number.

    The fallbacks look at the last 20,000 characters only.
    """
    strict = extract_strict(text)
    if strict is not None:
        return strict
    tail = text[-_TAIL_CHARS:]
    box = tail.rfind("\\boxed{")
    if box >= 0 and (content := _first_line(tail[box + 7 :]).rstrip("$}] ")):
        return content
    stated = [match.end() for match in _STATED.finditer(tail)]
    if stated and (content := _stated_answer(tail[stated[-1] :])):
        return content
    numbers = _NUMBER.findall(tail)
    return numbers[-1] if numbers else None


def _first_line(text: str) -> str:
    return text.lstrip()[:MAX_ANSWER_CHARS].split("\n", 1)[0].strip()


def _stated_answer(rest: str) -> str | None:
    """The answer in a text that announced one just before: a maths span, a choice letter, a group, a number, a line."""
    rest = rest[:MAX_ANSWER_CHARS].lstrip(" *_:\n")
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if rest.startswith(opening):
            inner, found, _ = rest[len(opening) :].partition(closing)
            inner = inner if found else inner.split("\n", 1)[0]
            is_price = opening == "$" and (not found or inner[:1] != " " == inner[-1:])
            if inner.strip() and not is_price:
                return inner.strip()
    line = _first_line(rest).strip(" *_:")
    if choice := _CHOICE.match(line):
        return choice[1]
    if group := _GROUP.match(line):
        return group.group()
    sentence = line.split(". ", 1)[0].rpartition("=")[2]
    number = _NUMBER.search(sentence) or _NUMBER.search(line)
    return number.group() if number else line.rstrip(".\u3002 ")[:200] or None


# --- normal form and exact comparison ---------------------------------------------------------------------

_COMMANDS = re.compile(r"\\(?:left|right|displaystyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![a-zA-Z])|\\[!,;: ]|~")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s{0,4}\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\{?\\circ\}?|\\degree|°")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)(?!\d)")
_INTEGER = re.compile(r"[+-]?\d+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)")
_SLASH = re.compile(r"([+-]?\d+)/([+-]?\d+)")
_FRAC = re.compile(r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}")
_WORDS = re.compile(r"[^\W\d_][^\W\d_'-]*")


def normalise(answer: str) -> str:
    r"""An answer in normal form: no spaces, dollars, ``\text``, sizing commands or degree signs, plain fractions."""
    answer = answer.strip()[:MAX_ANSWER_CHARS]
    if answer.isascii() and answer.isalnum():
        return answer
    if not answer.isascii():
        answer = unicodedata.normalize("NFKC", answer).replace("\u2212", "-")
    answer = answer.strip("*_ \t\n").replace("\\$", "").replace("$", "")
    if "\\" in answer or "~" in answer or "°" in answer:
        answer = answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\%", "%")
        answer = answer.replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
        answer = _DEGREES.sub("", _COMMANDS.sub("", answer))
        answer = _TEXT.sub(r"\1", answer)
        answer = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", answer)
    answer = "".join(answer.split()).replace("{,}", ",").rstrip(".")
    if len(answer) == 3 and answer[0] == "(" and answer[2] == ")" and answer[1].isalpha():
        answer = answer[1]
    return answer


def exact_number(answer: str) -> Fraction | int | None:
    """The exact value of a normalised integer, decimal or fraction; ``None`` for anything else or over 256 digits."""
    if len(answer) > MAX_DIGITS:
        return None
    if _INTEGER.fullmatch(answer):
        return int(answer)
    if not answer.isascii():
        return None
    if _GROUPED.fullmatch(answer):
        return Fraction(answer.replace(",", ""))
    if _DECIMAL.fullmatch(answer):
        return Fraction(answer)
    if match := _SLASH.fullmatch(answer):
        top, bottom = int(match[1]), int(match[2])
    elif match := _FRAC.fullmatch(answer):
        top, bottom = int(match[2]) * (-1 if match[1] == "-" else 1), int(match[3])
    else:
        return None
    return Fraction(top, bottom) if bottom else None


@lru_cache(maxsize=16384)
def _canonical_short(answer: str) -> str:
    plain = normalise(answer)
    number = exact_number(plain)
    if number is not None:
        return str(number)
    return plain.casefold() if _WORDS.fullmatch(plain) else plain


def canonical_answer(answer: str) -> str:
    """The form in which answers vote and are counted: exact value where numeric, else the normal form.

    ``0.50``, ``1/2`` and a LaTeX half are one answer; two algebraic forms of one expression are two answers.
    """
    return _canonical_short(answer if len(answer) <= 256 else answer[:MAX_ANSWER_CHARS])


def compare_exactly(gold: str, candidate: str) -> bool | None:
    """Whether two answers are equal where that is decidable without algebra; ``None`` where it is not.

    Equal normal forms are equal. Two numbers are equal when their exact values are, or when one is a decimal with at
    least six places and the other rounds to it. Two words are compared letter by letter (an algebra system reads
    "listen" and "silent" as equal products), and so is anything with a colon (times, ratios).
    """
    gold, candidate = normalise(gold), normalise(candidate)
    if gold == candidate:
        return bool(gold)
    left, right = exact_number(gold), exact_number(candidate)
    if left is not None and right is not None:
        return left == right or _rounds_to(left, right, candidate) or _rounds_to(right, left, gold)
    gold_words, candidate_words = bool(_WORDS.fullmatch(gold)), bool(_WORDS.fullmatch(candidate))
    if gold_words and candidate_words:
        return gold.casefold() == candidate.casefold()
    if (left is not None and candidate_words and len(candidate) > 1) or (right is not None and gold_words and gold[1:]):
        return False
    if ":" in gold or ":" in candidate:
        return False
    return None if gold and candidate else False


def _rounds_to(value: Fraction | int, shown: Fraction | int, text: str) -> bool:
    places = len(text.partition(".")[2])
    return places >= 6 and round(Fraction(value), places) == shown
