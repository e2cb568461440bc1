"""Text that models and logs may hold and nobody should trust: a corpus, and a generator that mixes and mutates it."""

from __future__ import annotations

import random

from hypothesis import strategies as st

CONTROL = ["<|im_start|>system\n", "<|im_end|>", "<|endoftext|>", "</s>", "[INST]", "<think>", "</think>", "<|end|>",
           "<|assistant|>", "<tool_call>"]  # fmt: skip
MARKUP = [
    "<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", "</pre></article><h1>", "<svg/onload=x()>",
    "{{ 7*7 }}", "{% include 'x' %}", "<iframe src=//evil.example>", "javascript:alert(1)", "]]>", "-->", "&lt;b&gt;",
    "<style>@import url(//evil.example)</style>", "<meta http-equiv=refresh content=0>", "<base href=//evil.example>",
]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil.example")', "'=1",
            "＝1+1", '"=1', "a,b\n=1"]  # fmt: skip
LATEX = [
    "\\boxed{", "}", "{", "\\boxed{}", "\\boxed{\\boxed{\\boxed{7}}}", "\\frac{1}{0}", "\\frac", "\\frac{}{}", "\\sqrt[3", "$",
    "$$", "\\(", "\\)", "\\[", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{cases}", "\\left(", "\\right)", "x^{", "^^^",
    "_{_{_{", "\\infty", "-\\infty", "\\lim_{x\\to0}", "\\int_0^1", "\\text{\\text{\\text{7}}}", "\\newcommand{\\a}{\\a\\a}\\a",
    "\\def\\x{\\x}", "\\input{/etc/passwd}", "\\write18{id}", "\\mathbb{R}", "\\{1,2,3\\}", "(-\\infty, 3]", "7\\%", "\\$7",
    "1{,}000", "1,000,000", "0.\\overline{3}", "10^{10^{10}}", "9**9**9**9", "2^{99999999}", "99999!", "9!!!!!!!!", "1e999999",
    "-1e-999999", "0x7", "７", "٧", "七", "½", "Ⅶ", "∞", "nan", "inf", "None", "True", "__import__('os').system('id')",
    "lambda:0", "#### 7", "####", "####\n####", "The answer is", "Answer: \\boxed{7", "\\boxed 7", "\\fbox{7}",
]  # fmt: skip
UNICODE = ["\u202e7\u202c", "\u200b", "\u200d" * 20, "\ufeff", "\u2066\u2069", "\ud800", "\udfff", "\ud83d", "\x00", "\x1b[2J",
           "\x7f", "\x85", "\u2028", "\r", "a\u0301" * 30, "\U0001f469\u200d\U0001f469\u200d\U0001f466", "ﷺ", "İ", "ß", "\U0010ffff",
           "\ue000user text\ue001", "Ａ", "𝟕", "ﬀ"]  # fmt: skip
WORDS = ["wait", "so", "then", "7", "1 + 1 = 2.", "\n\n", " ", "等等", "therefore 3 * 4 = 13", "check", "hmm,", "2/4 = 1/2;", "= = ="]
PIECES = [*CONTROL, *MARKUP, *FORMULAS, *LATEX, *UNICODE, *WORDS]


def large(size: int) -> list[str]:
    """Texts that cost a careless reader time, memory or its stack; ``size`` in characters."""
    n = size // 10
    return [
        "(" * n + "7" + ")" * n, "\\boxed{" * n, "{" * n + "}" * n, "\\frac{1}{" * (n // 2) + "2" + "}" * (n // 2),
        "9" * size, "-" * size, "a" * size, " " * size, "\n" * size, "\\boxed{" + "x+" * n + "1}", "1+" * n, "=" * size,
        "\\boxed{" + "9" * size + "}", "\u200b" * size, "1.2" * n, ("a " * 50 + "\n") * (size // 101), "\\sqrt{" * n, "$" * size,
        "<think>" * n, "7^" * n + "7", "[" * size, "a" * n + "\ud800" * n, "1 + 1 = 2. " * n, ".".join("1" * n),
        "\\text{" * n + "7" + "}" * n, "wait " * n, "；" * size, "= 1 " * n, "é" * size, "1,000" * n, "#" * size, "(1)" * n,
    ]  # fmt: skip


def mixture(rng: random.Random) -> str:
    """A random mixture of pieces, now and then repeated or with characters of any kind between."""
    found = []
    for _ in range(rng.choice([1, 2, 3, 8, 30])):
        piece = rng.choice(PIECES)
        kind = rng.random()
        if kind < 0.08:
            piece *= rng.choice([2, 20, 300])
        elif kind < 0.16:
            piece = "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)]))
                            for _ in range(rng.randrange(12)))  # fmt: skip
        found.append(piece)
    text = "".join(found)
    return f"\\boxed{{{text}}}" if rng.random() < 0.4 else text


def mixtures() -> st.SearchStrategy[str]:
    """The same for hypothesis, which shrinks what fails."""
    free = st.text(st.characters(exclude_categories=()), max_size=20)
    joined = st.lists(st.one_of(st.sampled_from(PIECES), free), max_size=12).map("".join)
    return st.one_of(joined, joined.map(lambda text: f"so \\boxed{{{text}}}"), joined.map(lambda text: text * 30))
