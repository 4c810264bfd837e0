"""Safe parser of arithmetic: text -> canonical text and exact value. It never calls `eval`.

In: `( ( 84.0 − 2 ) ÷ 1,000 )`. Out: `(84 - 2) / 1000` and Fraction(41, 500).

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed  = ("-" | "+") signed | atom "%"*
    atom    = number | "(" sum ")"

Limits on length, depth and digits keep the cost of any text below a few milliseconds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_CHARACTERS = 500
MAX_DEPTH = 40
MAX_DIGITS = 30
KEY_DECIMALS = 6
"""Values are equal if they agree after rounding to this many decimals: `10 / 3` and `3.333333` do."""

_SIGNS = str.maketrans(
    {
        "×": "*",
        "✕": "*",
        "✖": "*",
        "·": "*",
        "∙": "*",
        "⋅": "*",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "−": "-",
        "–": "-",
        "—": "-",
        "‐": "-",
        "‑": "-",
        "＋": "+",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_LATEX_SIGNS = re.compile(r"\\(times|cdot|div|left|right)(?![A-Za-z])|\\([,;:! ])")
_LATEX_MEANING = {"times": "*", "cdot": "*", "div": "/", "left": "", "right": ""}
# `3x4` and `3 x 4`, but not `0x10`, which is hexadecimal.
_TIMES_X = re.compile(r"(?<=[0-9)])(?: [xX]|(?<!(?<![0-9.,])0)[xX]) ?(?=[0-9(.])")
_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_TOKEN = re.compile(rf"[ \t\r\n]*(?:({_NUMBER})|([-+*/()%]))")
_END = re.compile(r"[ \t\r\n]*\Z")


class ExpressionError(ValueError):
    """The text is not valid arithmetic. The message is short enough for the `detail` of a reject."""


class _Number(NamedTuple):
    value: Fraction


class _Negative(NamedTuple):
    of: _Node


class _Binary(NamedTuple):
    sign: str
    left: _Node
    right: _Node


_Node = _Number | _Negative | _Binary
_Operand = Callable[[int], _Node]


def normalise_expression(text: str) -> str:
    """Canonical text, without redundant parentheses: `( ( 84.0 / 2.0 ) )` -> `84 / 2`. It is always readable again.

    Raises:
        ExpressionError: the text is not arithmetic, it or its canonical text is too long or too deep, or it divides by zero.
    """
    tree = _parse(text)
    _evaluate(tree)
    canonical = _render(tree)
    # Added spaces and parentheses may exceed a limit; texts of up to MAX_DIGITS characters exceed none.
    if len(canonical) > MAX_DIGITS:
        _parse(canonical)
    return canonical


@functools.lru_cache(maxsize=4096)  # each label and gold label is evaluated several times
def evaluate_expression(text: str) -> Fraction:
    """Exact value. Raises ExpressionError if the text is not arithmetic, too long or too deep, or divides by zero."""
    if text.isdecimal() and text.isascii() and len(text) <= MAX_DIGITS:  # most labels are whole numbers
        return Fraction(int(text))
    return _evaluate(_parse(text))


def format_value(value: Fraction) -> str:
    """Exact text of a value: `42`, `3.5`, or `10/3` if no decimal of up to 12 places is exact."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**12
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    return _decimal(value)


def value_key(value: Fraction) -> str:
    """Key that is equal for values that agree after rounding to KEY_DECIMALS decimals."""
    rounded = round(value, KEY_DECIMALS)
    return str(rounded.numerator) if rounded.denominator == 1 else _decimal(rounded)


def spell_signs(text: str) -> str:
    """Replace `×`, `÷`, `−`, `\\times`, `[` ... with the ASCII signs of the grammar."""
    text = text.replace("[", "(").replace("]", ")")
    if not text.isascii():
        text = text.translate(_SIGNS)
    if "\\" in text:
        text = _LATEX_SIGNS.sub(lambda m: _LATEX_MEANING.get(m[1] or "", " "), text)
    return _TIMES_X.sub(" * ", text) if "x" in text or "X" in text else text


def _parse(text: str) -> _Node:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"an expression of {len(text):,} characters, the limit is {MAX_CHARACTERS}")
    reader = _Reader(_tokens(spell_signs(text)))
    tree = reader.sum(0)
    if reader.peek():
        raise ExpressionError(f"unexpected `{reader.peek()}`")
    return tree


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while match := _TOKEN.match(text, position):
        number, sign = match.groups()
        yield number.replace(",", "") if number else sign
        position = match.end()
    if not _END.match(text, position):
        raise ExpressionError(f"unexpected {text[position:].strip()[:1]!r}")


class _Reader:
    """Recursive descent over tokens. The empty string marks the end."""

    def __init__(self, tokens: Iterator[str]) -> None:
        self._tokens = [*tokens, ""]
        self._next = 0

    def peek(self) -> str:
        return self._tokens[self._next]

    def sum(self, depth: int) -> _Node:
        return self._chain(("+", "-"), self._product, depth)

    def _product(self, depth: int) -> _Node:
        return self._chain(("*", "/"), self._signed, depth)

    def _chain(self, signs: tuple[str, str], operand: _Operand, depth: int) -> _Node:
        tree = operand(depth)
        while self.peek() in signs:
            sign = self._take()
            tree = _Binary(sign, tree, operand(depth))
        return tree

    def _signed(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"deeper than {MAX_DEPTH} levels")
        if self.peek() not in ("-", "+"):
            return self._atom(depth)
        sign = self._take()
        of = self._signed(depth + 1)
        if sign == "+":
            return of
        return of.of if isinstance(of, _Negative) else _Negative(of)

    def _atom(self, depth: int) -> _Node:
        token = self._take()
        if token == "(":
            tree = self.sum(depth + 1)
            if self._take() != ")":
                raise ExpressionError("a parenthesis is not closed")
        elif token and token[0] in "0123456789.":
            tree = _Number(_number(token))
        else:
            raise ExpressionError(f"unexpected `{token}`" if token else "it ends where a number is needed")
        while self.peek() == "%":
            self._take()
            tree = _Binary("/", tree, _Number(Fraction(100)))
        return tree

    def _take(self) -> str:
        token = self._tokens[self._next]
        if token:
            self._next += 1
        return token


def _number(token: str) -> Fraction:
    if len(token) > MAX_DIGITS:
        raise ExpressionError(f"a number of {len(token)} characters, the limit is {MAX_DIGITS}")
    return Fraction(int(token)) if token.isdecimal() else Fraction(token)


def _evaluate(tree: _Node) -> Fraction:
    if isinstance(tree, _Number):
        return tree.value
    if isinstance(tree, _Negative):
        return -_evaluate(tree.of)
    # The tree of a chain `1 + 1 + ...` is left-deep: a loop over it needs no recursion.
    pending: list[tuple[str, Fraction]] = []
    node: _Node = tree
    while isinstance(node, _Binary):
        pending.append((node.sign, _evaluate(node.right)))
        node = node.left
    result = _evaluate(node)
    for sign, right in reversed(pending):
        result = _apply(sign, result, right)
    return result


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    if right == 0:
        raise ExpressionError("division by zero")
    return left / right


_LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2}


def _render(tree: _Node) -> str:
    if isinstance(tree, _Number):
        return _decimal(tree.value)
    if isinstance(tree, _Negative):
        inner = _render(tree.of)
        return f"-({inner})" if isinstance(tree.of, _Binary) else f"-{inner}"
    parts: list[str] = []
    node: _Node = tree
    while isinstance(node, _Binary):
        level = _LEVEL[node.sign]
        parts.append(f" {node.sign} {_render_right(node)}")
        if isinstance(node.left, _Binary) and _LEVEL[node.left.sign] < level:
            return f"({_render(node.left)})" + "".join(reversed(parts))
        node = node.left
    return _render(node) + "".join(reversed(parts))


def _render_right(node: _Binary) -> str:
    """Render the right operand: `a + (b - c)` needs no parentheses, `a - (b - c)` does. Negatives get them for readability."""
    right = node.right
    text = _render(right)
    if text.startswith("-"):
        return f"({text})"
    if not isinstance(right, _Binary):
        return text
    weaker = _LEVEL[right.sign] < _LEVEL[node.sign]
    same = _LEVEL[right.sign] == _LEVEL[node.sign] and node.sign in "-/"
    return f"({text})" if weaker or same else text


def _decimal(value: Fraction) -> str:
    """Decimal text without exponent or trailing zeros. The denominator must divide a power of ten."""
    if value.denominator == 1:
        return str(value.numerator)
    places, scaled = 0, abs(value)
    while scaled.denominator != 1:
        places, scaled = places + 1, scaled * 10
    digits = str(scaled.numerator).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if value < 0 else text
