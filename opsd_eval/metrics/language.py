"""Language of a text by script and by function words: small, bounded, and silent when unsure.

A general language identifier misreads short mathematical text; here a language is named only on clear evidence,
otherwise it is ``"und"`` (undetermined), and nothing is concluded from it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from opsd_eval.metrics.base import Metric, mean_or_nan, per_text
from opsd_eval.records import Problem, Sample

UNKNOWN = "und"
MAX_CHARS = 20_000
_WINDOWS = 10
_SEGMENT_WORDS = 40

_WORD = re.compile(r"\\?[^\W\d_]+")
_ASCII_WORD = re.compile(r"\\?[a-z]+")
_NOT_LATIN = re.compile(r"[\u0370-\u1fff\u2e80-\ud7ff\uf900-\uffef]+")

# Ranges of letters that name a language by themselves: (first, last, language, letters that carry one word's weight).
_SCRIPTS = (
    (0x3040, 0x30FF, "ja", 2.0),
    (0x3400, 0x9FFF, "zh", 1.5),
    (0xF900, 0xFAFF, "zh", 1.5),
    (0xAC00, 0xD7AF, "ko", 2.0),
    (0x1100, 0x11FF, "ko", 4.0),
    (0x0400, 0x052F, "ru", 5.0),
    (0x0590, 0x05FF, "he", 4.0),
    (0x0600, 0x06FF, "ar", 4.0),
    (0x0900, 0x097F, "hi", 4.0),
    (0x0980, 0x09FF, "bn", 4.0),
    (0x0B80, 0x0BFF, "ta", 5.0),
    (0x0C00, 0x0C7F, "te", 5.0),
    (0x0E00, 0x0E7F, "th", 4.0),
    (0x0370, 0x03FF, "el", 5.0),
    (0x10A0, 0x10FF, "ka", 5.0),
    (0x0530, 0x058F, "hy", 5.0),
)

_FUNCTION_WORDS = {
    "en": "the of and is to that we this so are with for it be by have which then if not let from can but there "
    "has was an as at or you what how they each when will must would",
    "de": "der die das und ist wir nicht ein eine zu mit den von für auf dass sich dann wenn sind auch wird werden "
    "haben oder dem des einen als im bei aus ich",
    "fr": "le la les des est et que une nous pour dans donc du sont avec pas qui ce au sur par cette alors il on ne "
    "plus si peut elle ou avons",
    "es": "el la los las es una que por para con del se como entonces son pero si y de en un lo tenemos cuando cada "
    "esto esta más hay",
    "pt": "o os as uma que por para com do da em não se como então são mas é um dos das e temos quando cada isso "
    "ao na no",
    "it": "il che di è un una per con non sono della quindi gli del dei le la lo e se come abbiamo quando ogni "
    "questo più nel",
    "nl": "de het een en van dat niet zijn wij met voor dus als deze er aan op te bij ook dan hebben elke kan",
    "pl": "jest nie się że więc i w na z do to jak dla są oraz mamy czyli jeśli przez po",
    "tr": "bir ve bu için ile olarak da de her ne gibi daha olan o değil olur eğer",
    "vi": "là của và không có một các được cho này với trong ta thì số vì nên khi",
    "id": "yang dan adalah ini dengan untuk dari kita tidak di itu pada maka jika akan jadi ada",
    "sv": "och att är det som inte för en ett vi på av med har till den så om kan",
}
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _code, _words in _FUNCTION_WORDS.items():
    for _function_word in _words.split():
        _LANGUAGES_OF[_function_word] = (*_LANGUAGES_OF.get(_function_word, ()), _code)


@per_text
def lowered(text: str) -> str:
    """The text in lower case (computed once)."""
    return text.lower()


@per_text
def language_of(text: str) -> str:
    """ISO 639-1 code of the language most of the text is in, or ``"und"``.

    A script that belongs to one language (or one large family: Cyrillic is reported as ``ru``, Arabic script as
    ``ar``) decides when its letters weigh more than the Latin words; Latin text is decided by function words: at
    least 4, at least 6 % of the words, and 1.3 times as many as the next language. Above 20,000 characters ten
    evenly spaced windows are read. Failure modes: code, lists of formulas and word salad are ``und``; close
    relatives (Norwegian, Galician, Ukrainian) are reported as the relative or ``und``.
    """
    return _summary(text)[0]


@per_text
def _summary(text: str) -> tuple[str, bool]:
    """(language, whether there is enough of a second language for a segment to be in it)."""
    plain = _window(lowered(text))
    language, counts = _language(plain)
    return language, not plain.isascii() or sorted([0, 0, *counts.values()])[-2] >= 4


def _window(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    size = MAX_CHARS // _WINDOWS
    step = (len(text) - size) / (_WINDOWS - 1)
    return "\n".join(text[int(i * step) : int(i * step) + size] for i in range(_WINDOWS))


def _language(text: str) -> tuple[str, dict[str, int]]:
    """(language, hits of function words by language) of a lower-cased text."""
    if text.isascii():
        words = _ASCII_WORD.findall(text)
    else:
        words = _WORD.findall(text)
        weights = _script_weights(text)
        best = max(weights, key=lambda name: weights[name], default="")
        if best and weights[best] >= 3 and weights[best] > _latin_words(words):
            return best, {}
    counts = _function_word_counts(words)
    return _by_function_words(counts, words), counts


def _latin_words(words: Sequence[str]) -> int:
    """Words of at least two Latin letters that are not commands."""
    return sum(1 for word in words if len(word) > 1 and word[0] != "\\" and word[0] < "\u0370")


def _script_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for run in _NOT_LATIN.findall(text):
        if len(run) == 1 and "\u0370" <= run <= "\u03ff":
            continue  # a lone Greek letter is mathematics
        for letter in run:
            code = ord(letter)
            for first, last, language, letters in _SCRIPTS:
                if first <= code <= last:
                    weights[language] = weights.get(language, 0.0) + 1 / letters
                    break
    if "ja" in weights and weights["ja"] > 0.15 * weights.get("zh", 0.0):
        weights["ja"] += weights.pop("zh", 0.0)
    return weights


def _function_word_counts(words: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word, hits in Counter(words).items():
        for language in _LANGUAGES_OF.get(word, ()):
            counts[language] = counts.get(language, 0) + hits
    return counts


def _by_function_words(counts: dict[str, int], words: Sequence[str]) -> str:
    if not counts:
        return UNKNOWN
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    best, hits = ranked[0]
    second = ranked[1][1] if len(ranked) > 1 else 0
    if hits < 4 or hits < 1.3 * second:
        return UNKNOWN
    enough = hits >= 0.06 * len(words) or hits >= 0.06 * _latin_words(words)
    return best if enough else UNKNOWN


def is_off_language(question: str, text: str) -> bool:
    """Whether the completion is in another language than its question; false unless both languages are clear.

    A question too short to identify counts as Latin-script when it has at least two Latin words, so that an answer
    in another script is still seen.
    """
    language = language_of(text)
    if language == UNKNOWN:
        return False
    asked = language_of(question)
    if asked == UNKNOWN:
        words = [word for word in _WORD.findall(lowered(question)[:MAX_CHARS]) if len(word) > 1 and word[0] != "\\"]
        return language not in _FUNCTION_WORDS and len(words) >= 2 and all(word[0] < "\u0370" for word in words)
    return asked != language


@per_text
def count_switches(text: str) -> int:
    """Changes of language between successive segments of 40 words (or 60 letters of an unspaced script)."""
    if not _summary(text)[1]:
        return 0
    languages = [_language(segment)[0] for segment in _segments(_window(lowered(text)))]
    return sum(1 for before, after in pairwise(x for x in languages if x != UNKNOWN) if before != after)


def _segments(text: str) -> list[str]:
    if text.isascii():  # no unspaced scripts: forty words a segment
        pieces = text.split()
        return [" ".join(pieces[at : at + _SEGMENT_WORDS]) for at in range(0, len(pieces), _SEGMENT_WORDS)]
    segments, words, letters = [], 0, 0
    start = 0
    for match in re.finditer(r"\S+", text):
        words += 1
        letters += len(match.group()) if not match.group().isascii() else 0
        if words >= _SEGMENT_WORDS or letters >= 60:
            segments.append(text[start : match.end()])
            start, words, letters = match.end(), 0, 0
    return [*segments, text[start:]]


def language_switches(problem: Problem, samples: Sequence[Sample]) -> float:
    """Mean number of language switches per completion.

    Equation: mean over draws of :func:`count_switches`. Empty completions have none; missing texts are left out.
    Lower is better. Failure modes: segments of formulas only are skipped, so a switch there is not seen.
    Source: own definition (language mixing is described in arXiv 2501.12948, section 2.3).
    """
    return mean_or_nan(float(count_switches(s.text)) for s in samples if s.text is not None)


METRICS = (Metric("language_switches", language_switches, "lower"),)
