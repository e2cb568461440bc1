"""Find the expressions that stand directly before and after a relation sign.

The text between two signs is read once, left to right, into *runs*: numbers joined by operators, with unit words
allowed after an operand ("3 hours * 20 km/hour"). The run that touches a sign is one side of the equation. Whatever
cannot be read with certainty makes the side unknown rather than wrong: a letter in the place of a number, a function
call, an operator whose other operand is a word.
"""

from __future__ import annotations

from opsd_eval.arithmetic.evaluate import vulgar
from opsd_eval.arithmetic.runs import Run
from opsd_eval.arithmetic.tokens import SUPERSCRIPTS, Token, tokenise
from opsd_eval.arithmetic.units import DIMENSION, UNIT_LETTERS

MAX_TOKENS = 240
MAX_WORDS = 8
_OPERANDS = "n(fr"
_WORD_OPERATORS = {"x": "*", "X": "*", "times": "*", "plus": "+", "minus": "-", "of": "*", "by": ""}
_TWO_WORDS = {"multiplied": "*", "divided": "/"}
#: Words after which something new is said: the number before them is no longer what a sign is about.
_JOINTS = frozenset(["and", "or", "so", "then", "but", "because", "since", "while", "where", "when"])
_FUNCTIONS = frozenset(["sin", "cos", "tan", "cot", "csc", "log", "ln", "lg", "lim", "gcd", "lcm", "exp", "det"])
_MULTIPLY = ("*", "\\times", "\\cdot", "\\ast", "\\*")


class Scanner:
    """Reads one stretch of text between two relation signs into runs.

    ``after`` says what the stretch begins after: a "sign", a "break" between clauses, or a "cut" in mid-text.
    """

    def __init__(self, text: str, start: int, end: int, *, after: str = "sign") -> None:
        self.text = text
        self.tokens = tokenise(text, start, end)
        self.runs: list[Run] = []
        self.run: Run | None = None
        self.open: list[int] = []
        self.need = False
        self.words = 0
        self.after = after
        self.tainted = after == "cut"
        self.at = 0

    def head(self) -> Run | None:
        """The run that begins the stretch, if one does."""
        count = len(self.tokens)
        while self.at < count:
            self._step()
            if self.run is None:
                break
        else:
            self._finish_at_sign()
        return self.runs[0] if self.runs and self.runs[0].first else None

    def scan(self) -> list[Run]:
        """All runs, in order."""
        count = len(self.tokens)
        while self.at < count:
            self._step()
        self._finish_at_sign()
        return self.runs

    def _step(self) -> None:
        token = self.tokens[self.at]
        if self.run is None:
            self._outside(token)
        elif self.need:
            self._operand(token)
        else:
            self._after_operand(token)
        self.at += 1
        if self.run is not None and len(self.run.pieces) > MAX_TOKENS:
            self._drop()

    # --- helpers ------------------------------------------------------------------------------------------------

    def _ahead(self, places: int = 1) -> Token | None:
        place = self.at + places
        return self.tokens[place] if place < len(self.tokens) else None

    def _before(self) -> Token | None:
        return self.tokens[self.at - 1] if self.at else None

    def _operand_ahead(self, places: int = 1) -> bool:
        token = self._ahead(places)
        if token is None:
            return False
        if token.kind == "o" and token.text in "+-":
            after = self._ahead(places + 1)
            return after is not None and after.kind in _OPERANDS
        return token.kind in _OPERANDS or token.text == "sqrt"

    def _is_half(self, token: Token) -> bool:
        """Whether the word "half" is a factor ("half of 30", "half * 30")."""
        after = self._ahead()
        return token.text == "half" and after is not None and (after.text == "of" or after.kind == "o")

    def _add(self, token: Token, kind: str, text: str) -> None:
        assert self.run is not None
        before = self._before()
        self.run.pieces.append((kind, text, before is not None and before.end < token.start))
        self.run.end = self.run.stop = token.end

    def _begin(self, token: Token, *, bullet: bool = False) -> None:
        before = self._before()
        lead = before.text.lower() if before is not None and before.kind == "w" else ""
        self.run = Run(start=token.start, first=self.at == 0, tainted=self.tainted, bullet=bullet, lead=lead)
        self.tainted, self.open, self.words, self.need = False, [], 0, True
        self._operand(token)

    def _finish(self, *, dangling: bool = False, last: bool = False) -> None:
        run = self.run
        assert run is not None
        if self.open and last:  # "(so 3 + 4 = 7)": the bracket opened before the equation
            keep = self.open[-1] + 1
            first_kept = run.pieces[keep:]
            if not first_kept:
                return self._drop()
            run.pieces, run.first, run.cuts, run.tainted = first_kept, False, [], False
        elif self.open:
            return self._drop()
        while run.pieces and run.pieces[-1][0] == "o":
            run.pieces.pop()
            dangling = True
        run.dangling, run.last = dangling, last and not dangling
        if run.pieces:
            self.runs.append(run)
        self.run = None
        return None

    def _drop(self) -> None:
        """Give the run up; what follows directly has an unreadable left operand."""
        self.run, self.tainted = None, True

    def _finish_at_sign(self) -> None:
        if self.run is not None:
            self._finish(last=True, dangling=self.need)

    # --- three states -------------------------------------------------------------------------------------------

    def _outside(self, token: Token) -> None:
        kind, before = token.kind, self._before()
        if kind == "(":
            called = before is not None and before.kind == "w" and before.end == token.start
            if called or not self._operand_ahead():
                self.tainted = self.tainted or called
                return
            self._begin(token)
        elif kind in "nfr" or token.text == "sqrt" or self._is_half(token):
            if kind == "n" and before is not None and before.kind == "w" and before.end == token.start:
                self.tainted = self.tainted or before.text[-1].isascii()  # log2, x3
            self._begin(token)
        elif kind == "o":
            self._leading_operator(token, before)
        elif kind in "%!^x":
            self.tainted = True
        elif kind in "wb":
            self.tainted = token.text == "\n" and before is not None and before.kind == "o"  # goes on in the next line

    def _leading_operator(self, token: Token, before: Token | None) -> None:
        after = self._ahead()
        attached = after is not None and after.start == token.end and self.text[token.end] not in " \t"
        at_edge = before is None or before.kind in "b("
        if before is not None and before.text == "\\\\":
            self.tainted = True  # a display that goes on in its next line
        if token.text in _MULTIPLY or token.text == "**":
            self.tainted = self.tainted or not (at_edge or (before is not None and before.kind == "w" and attached))
            return
        if token.text not in "+-" or not self._operand_ahead():
            self.tainted = True
        elif at_edge:
            bullet = not attached and (before is not None or self.after != "sign")
            self._begin(token, bullet=bullet)
        elif before is not None and before.kind == "w" and before.end < token.start and self._is_attached(token):
            self._begin(token)
        else:
            self.tainted = True

    def _is_attached(self, token: Token) -> bool:
        return self.text[token.end : token.end + 1] not in (" ", "\t")

    def _operand(self, token: Token) -> None:
        kind = token.kind
        if kind == "n":
            self._add(token, "n", token.text)
            self.need, self.words = False, 0
        elif kind == "(":
            assert self.run is not None
            self.open.append(len(self.run.pieces))
            self._add(token, "(", "(")
        elif kind in "fr" or token.text == "sqrt":
            self._add(token, "r" if token.text == "sqrt" else kind, token.text)
        elif kind == "o" and token.text in "+-":
            self._add(token, "o", token.text)
        elif self._is_half(token):
            self._add(token, "n", "0.5")
            self.need, self.words = False, 0
        elif self.open:
            self._drop()
            self.tainted = kind != "b"
        else:
            self._finish(dangling=True)
            self._outside(token)
            self.tainted = kind != "b" or token.text == "\n"

    def _after_operand(self, token: Token) -> None:
        kind = token.kind
        if kind == "o":
            self._operator(token)
        elif kind == "w":
            self._word(token)
        elif kind in _OPERANDS:
            if not (kind == "(" and self._skip_remark()):
                self._side_by_side(token)
        elif kind == ")":
            if self.open:
                self.open.pop()
                self._add(token, ")", ")")
                self.words = 0
            else:
                self._finish()
        elif kind == "%":
            if self._operand_ahead() and self._ahead().kind == "n":  # type: ignore[union-attr]
                self._drop()  # 17 % 5: a remainder
            else:
                self._add(token, "%", "%")
        elif kind in "^!":
            if not self.words:
                raised = "".join(str(SUPERSCRIPTS[sign]) for sign in token.text) if kind == "^" else "!"
                self._add(token, kind, raised)
        elif kind == "b":
            self._drop() if self.open else self._finish()
            self.tainted = False
        else:
            self._unknown(token)

    # --- after an operand ---------------------------------------------------------------------------------------

    def _operator(self, token: Token) -> None:
        assert self.run is not None
        text = "*" if token.text in _MULTIPLY else {"\\div": "\u00f7", "**": "^"}.get(token.text, token.text)
        after = self._ahead()
        if self.words and text == "^":
            self.at += 1  # cm^2
            return
        if token.text == "**" and not self._is_power(token):
            return
        if text == "/" and after is not None and after.kind == "w" and after.text != "sqrt":
            self.run.units.append(after.text.lower())  # km/hour
            self.run.stop = after.end
            self.words, self.at = self.words + 1, self.at + 1
            return
        if not self._operand_ahead() and not (text in "*/^" and after is not None and after.text == "-"):
            if text == "*" and (after is None or after.kind != "w" or self._is_spaced_markdown(token)):
                return
            self._finish(dangling=not self._is_dash(token, after)) if not self.open else self._drop()
            self.tainted = True
            return
        if self.words:
            self.run.cuts.append(len(self.run.pieces))
        self._add(token, "o", text)
        self.need, self.words = True, 0

    def _is_power(self, token: Token) -> bool:
        before, after = self._before(), self._ahead()
        if before is None or after is None or after.kind not in "n(":
            return False
        return before.kind in "n)" and (before.end < token.start) == (token.end < after.start)

    def _is_spaced_markdown(self, token: Token) -> bool:
        before = self._before()
        return before is not None and before.end == token.start and not self._is_attached(token)

    def _is_dash(self, token: Token, after: Token | None) -> bool:
        """Whether a hyphen before a word of several letters is punctuation ("= 8 - so we")."""
        return token.text == "-" and after is not None and after.kind == "w" and len(after.text) > 1

    def _word(self, token: Token) -> None:
        assert self.run is not None
        before, text = self._before(), token.text
        operator = _WORD_OPERATORS.get(text) or (_WORD_OPERATORS.get(text.lower()) if len(text) > 1 else None)
        after = self._ahead()
        if text.lower() in _TWO_WORDS and after is not None and after.text == "by" and self._operand_ahead(2):
            self._add(token, "o", _TWO_WORDS[text.lower()])
            self.at, self.need, self.words = self.at + 1, True, 0
            return
        if operator and self._is_word_operator(text):
            self._add(token, "o", operator)
            self.need, self.words = True, 0
            return
        attached = before is not None and before.end == token.start and before.kind in "n)"
        greek = len(text) == 1 and "\u0370" <= text <= "\u03ff"
        if not self.open and (text.lower() in _JOINTS or text.lower() in _FUNCTIONS or (greek and not attached)):
            self._finish()
            self.tainted = text.lower() not in _JOINTS
            return
        single = len(text) == 1 and text.isascii()
        is_letter = single and (attached or after is None or after.kind in "o^(") and text not in UNIT_LETTERS
        is_product = attached and text.isascii() and len(text) == 2 and text.lower() not in DIMENSION
        if is_letter or is_product:
            self._drop()
            return
        if single and text in UNIT_LETTERS and (attached or not any(unit[1:] for unit in self.run.units)):
            self.run.letters.append(text)
        self.run.units.append(text.lower())
        self.run.stop = token.end
        self.words += 1
        if self.words > MAX_WORDS and not self.open:
            self._finish()

    def _is_word_operator(self, text: str) -> bool:
        """Whether "x", "times", "of" ... stands between two operands ("2x + 3" and "5 for a total of 6" do not)."""
        after, then = self._ahead(), self._ahead(2)
        if not self._operand_ahead() or after is None:
            return False
        if after.kind == "o" and (then is None or then.start > after.end):
            return False
        if after.kind == "o" and len(text) == 1 and not self._is_spaced(after):
            return False  # 2x+3, 2x -3
        return text.lower() != "of" or not self.words

    def _is_spaced(self, after: Token) -> bool:
        """Whether the token at hand has a space on either side."""
        before, token = self._before(), self.tokens[self.at]
        return before is not None and before.end < token.start and token.end < after.start

    def _side_by_side(self, token: Token) -> None:
        """An operand right after an operand: a product, a mixed number, or the start of something else."""
        assert self.run is not None
        before = self._before()
        assert before is not None
        attached = before.end == token.start
        if self.words:
            starts_new = True
        elif token.kind == "n" and before.kind == "!" and attached:
            self.run.pieces.append(("o", "*", False))  # 2!4!
            starts_new = False
        elif token.kind == "n":
            starts_new = not self._is_mixed(token)
        elif token.kind == "(":
            starts_new = not self._operand_ahead()
            if not attached and before.kind != ")":
                self.run.cuts.append(len(self.run.pieces))
        else:
            starts_new = False
        if not starts_new:
            self._operand(token)
            self.need = token.kind != "n"
            return
        if self.open:
            self._drop()
            return
        near = token.kind == "n" and before.kind in "n)" and not self.words
        self._finish()
        self.tainted = near
        self._outside(token)

    def _skip_remark(self) -> bool:
        """Pass over a bracket that holds words only: "5 (from Tom) + 7 (from Ann)"."""
        places = 1
        while (token := self._ahead(places)) is not None and token.kind == "w" and places <= MAX_WORDS:
            places += 1
        if places == 1 or token is None or token.kind != ")":
            return False
        self.at, self.words = self.at + places, self.words + 1
        assert self.run is not None
        self.run.units.append("")
        return True

    def _is_mixed(self, token: Token) -> bool:
        before, slash, bottom = self._before(), self._ahead(), self._ahead(2)
        whole = before is not None and before.kind == "n" and before.text.isdigit()
        if whole and not token.text.isascii() and vulgar(token.text) is not None:
            return True
        if slash is None or bottom is None or slash.text != "/" or bottom.kind != "n":
            return False
        return whole and token.text.isdigit() and slash.start == token.end

    def _unknown(self, token: Token) -> None:
        assert self.run is not None
        before = self._before()
        dots = token.text[0] in ".\u2026" or token.text.startswith(("\\dots", "\\ldots", "\\cdots"))
        if dots and before is not None and before.kind == "n" and before.end == token.start:
            self.run.ellipsis = True
        elif token.text.startswith("\\") or (before is not None and before.end == token.start) or self.open:
            self._drop()
        else:
            self._finish()
            self.tainted = True
