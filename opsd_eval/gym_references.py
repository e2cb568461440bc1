r"""Worked solutions for reasoning-gym problems, written from the task's own metadata, ending in ``\boxed{answer}``."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

Metadata = Mapping[str, Any]
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def gym_reference(family: str, metadata: Metadata, answer: str) -> str | None:
    """A worked solution, or ``None`` where the family's metadata does not hold one."""
    make = REFERENCES.get(family)
    steps = make(metadata, answer) if make else None
    return None if steps is None else f"{steps.strip()}\nThe answer is \\boxed{{{answer}}}."


def arithmetic_steps(expression: str) -> str:
    """One line for each operation of an expression of numbers, +, -, *, / and brackets, in order of evaluation.

    The expression is parsed, never evaluated as code; anything else in it raises ``ValueError``.
    """
    lines: list[str] = []
    _reduce(ast.parse(expression.strip(), mode="eval").body, lines)
    return "\n".join(lines)


def _reduce(node: ast.expr, lines: list[str]) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(ast.unparse(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_reduce(node.operand, lines)
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        left, right = _reduce(node.left, lines), _reduce(node.right, lines)
        sign = _SIGNS[type(node.op)]
        value = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
        if value is None:
            value = left / right
        lines.append(f"{_number(left)} {sign} {_number(right, inner=True)} = {_number(value)}")
        return value
    raise ValueError(f"not plain arithmetic: {ast.unparse(node)!r}")


def _number(value: Fraction, *, inner: bool = False) -> str:
    """A whole or finite decimal number as it is written; other fractions as a/b; negative operands in brackets."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest != 1:
        text = f"{value.numerator}/{value.denominator}"
    elif value.denominator == 1:
        text = str(value.numerator)
    else:
        places = max(k for k in range(1, 64) if (value * 10 ** (k - 1)).denominator != 1)
        text = f"{'-' if value < 0 else ''}{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
        text = f"{text[:-places]}.{text[-places:]}"
    return f"({text})" if inner and value < 0 else text


def _expression(metadata: Metadata, answer: str) -> str:
    return arithmetic_steps(metadata["expression"])


def _products(metadata: Metadata, answer: str) -> str:
    """Multiply factor by factor, each long multiplication by the digits of the second factor."""
    lines, value, *factors = [], *(int(part) for part in metadata["expression"].split("*"))
    for factor in factors:
        parts = [int(digit) * 10**power for power, digit in enumerate(reversed(str(factor))) if digit != "0"]
        if len(parts) > 1:
            lines += [f"{value} * {part} = {value * part}" for part in parts]
            lines.append(" + ".join(str(value * part) for part in parts) + f" = {value * factor}")
        else:
            lines.append(f"{value} * {factor} = {value * factor}")
        value *= factor
    return "\n".join(lines)


def _legs(metadata: Metadata, answer: str) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    lines = [
        f"A {animal} has {ANIMALS[animal]} legs, and {count} of them have {count} * {ANIMALS[animal]} = "
        f"{count * ANIMALS[animal]} legs."
        for animal, count in metadata["animals"].items()
    ]
    if len(lines) > 1:
        totals = " + ".join(str(count * ANIMALS[animal]) for animal, count in metadata["animals"].items())
        lines.append(f"{totals} = {answer}")
    return "\n".join(lines)


def _euclid(a: int, b: int, lines: list[str]) -> int:
    """Greatest common divisor by division with remainder, one line a division."""
    while b:
        lines.append(f"{a} = {a // b} * {b} + {a % b}")
        a, b = b, a % b
    return a


def _gcd(metadata: Metadata, answer: str) -> str:
    value, *others = metadata["numbers"]
    lines: list[str] = []
    for other in others:
        pair = (max(value, other), min(value, other))
        value = _euclid(*pair, lines)
        lines.append(f"gcd({pair[0]}, {pair[1]}) = {value}")
    return "\n".join(lines)


def _lcm(metadata: Metadata, answer: str) -> str:
    value, *others = metadata["numbers"]
    lines: list[str] = []
    for other in others:
        shared = _euclid(max(value, other), min(value, other), lines)
        lines.append(f"lcm({value}, {other}) = {value} * {other} / {shared} = {math.lcm(value, other)}")
        value = math.lcm(value, other)
    return "\n".join(lines)


def _fraction(metadata: Metadata, answer: str) -> str:
    top, bottom = metadata["numerator"], metadata["denominator"]
    lines: list[str] = []
    shared = _euclid(max(top, bottom), min(top, bottom), lines)
    lines += [f"{top} / {shared} = {top // shared}", f"{bottom} / {shared} = {bottom // shared}"]
    return "\n".join(lines)


def _backward(metadata: Metadata, answer: str) -> str:
    return f"Letters in order: {', '.join(metadata['word'])}.\nFrom the last to the first: {', '.join(answer)}."


def _factors(metadata: Metadata, answer: str) -> str:
    lines, rest = [], metadata["number"]
    for prime in metadata["factors"][:-1]:
        lines.append(f"{rest} / {prime} = {rest // prime}")
        rest //= prime
    return "\n".join([*lines, f"{rest} is prime."])


def _bits(metadata: Metadata, answer: str) -> str:
    return f"{metadata['number']} in binary is {metadata['binary']}, which has {answer} ones."


def _gsm(metadata: Metadata, answer: str) -> str:
    return str(metadata["answer_cot"]).split("####")[0]


REFERENCES: dict[str, Callable[[Metadata, str], str | None]] = {
    "basic_arithmetic": _expression,
    "chain_sum": _expression,
    "count_bits": _bits,
    "decimal_chain_sum": _expression,
    "fraction_simplification": _fraction,
    "gcd": _gcd,
    "gsm_symbolic": _gsm,
    "lcm": _lcm,
    "leg_counting": _legs,
    "prime_factorization": _factors,
    "products": _products,
    "spell_backward": _backward,
}
