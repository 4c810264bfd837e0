"""The evaluator against exact arithmetic on random expressions, and against hostile texts."""

import ast
import contextlib
import json
import math
import operator
import random
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest

from pipelines.tasks.parsing.expressions import (
    MAX_CHARACTERS,
    ExpressionError,
    evaluate_expression,
    normalise_expression,
)

COUNT = 2000
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def _tree(generator: random.Random, depth: int) -> ast.expr:
    """A random expression, whose names are the texts of numbers."""
    kind: Any = generator.choice((None, ast.USub, *OPERATORS)) if depth else None
    if kind is ast.USub:
        return ast.UnaryOp(kind(), _tree(generator, depth - 1))
    if kind is not None:
        return ast.BinOp(_tree(generator, depth - 1), kind(), _tree(generator, depth - 1))
    whole = str(generator.choice((0, 1, 2, 7, 10, 84, 1000, generator.randrange(10**6))))
    decimals = f".{generator.randrange(1000)}"
    return ast.Name(
        generator.choice((whole, whole, whole + decimals, decimals, f"{whole}.", f"00{whole}", f"{whole}.50"))
    )


def _value(tree: Any) -> Fraction:
    """The value, computed from the tree without a parser."""
    if isinstance(tree, ast.Name):
        return Fraction(f"0{tree.id}0" if "." in tree.id else tree.id)
    if isinstance(tree, ast.UnaryOp):
        return -_value(tree.operand)
    return Fraction(OPERATORS[type(tree.op)](_value(tree.left), _value(tree.right)))


def test_random_expressions_have_their_exact_value() -> None:
    generator = random.Random(2026)
    valued = rendered = refused = 0
    while valued + refused < COUNT:
        tree = _tree(generator, generator.randrange(1, 6))
        text = re.sub(
            "[ ()]", lambda sign: sign[0].strip() + generator.choice(("", "", " ", "  ", "\t")), ast.unparse(tree)
        )
        if len(text) > MAX_CHARACTERS:
            continue
        try:
            value = _value(tree)
        except ZeroDivisionError:
            with pytest.raises(ExpressionError, match="division by zero"):
                evaluate_expression(text)
            refused += 1
            continue
        assert evaluate_expression(text) == value, text
        with contextlib.suppress(ExpressionError):  # the canonical text of a long expression may be too long
            canonical = normalise_expression(text)
            assert evaluate_expression(canonical) == value, text
            assert normalise_expression(canonical) == canonical, text
            rendered += 1
        valued += 1
    assert rendered > 0.99 * valued > 0.8 * COUNT
    assert refused > 20


REFUSED = [
    # Digits of other scripts are refused too, though int() reads some; `0x10` is neither 16 nor 0 times 10.
    "9**9**9", "9^9^9", "9" + "**9" * 100, "(" * 10_000 + "1" + ")" * 10_000, "(" * 200 + "1" + ")" * 200, "-" * 400 + "1", "x", "pi",
    "inf", "nan", "1j", "True", "__import__('os').system('x')", "open('/etc/passwd').read()", "print(1)", "abs(-1)", "exit()",
    "(1).__class__", "1 .real", "1..real", "[1][0]", "[i for i in (1,)]", "lambda: 1", "(lambda: 1)()", "1 if 1 else 2", "a := 1", "1; 2",
    "1\n2", "f'{1}'", "'1' * 9", "1 << 99", "7 // 2", "7 % 2", "1 < 2", "1 and 2", "٣", "٣ + 1", "²", "3²", "１", "１ + 1", "½", "Ⅷ",
    "1\x00", "\x00", "1\x00+1", "\ud800", "9" * 31, "9" * 100_000, "0." + "1" * 100_000, "9." * 1000, "1e999999", "1E9", "1e-9", "1_000",
    "0x10", "0X10", "0b11", "0o17", "1,00", "1/0", "1/(1-1)", "1/0%", "1 # 2", "1\\\n+1", "9" + "/7" * 1_000_000, "1+" * 1_000_000 + "1",
    # The longest texts that are evaluated. Their canonical texts are too long.
    "1+" * 200 + "1", "1" + "%" * 499, "." + "1" * 29, "9*" * 249 + "9", "1+1*" * 124 + "1", "9/7" + "/7" * 248,
]  # fmt: skip
HOSTILE: dict[str, str | None] = {
    **dict.fromkeys(REFUSED),
    # Within the limits, and as costly as texts of their length can be.
    "9" * 30: "9" * 30,
    "1" + "/2" * 120: f"1/{2**120}",
    "/".join(str(10**9 - i) for i in range(40)): str(Fraction(10**9, math.prod(10**9 - i for i in range(1, 40)))),
    "1" + "%" * 80: f"1/{100**80}",
    "*".join(["9" * 30] * 15): str((10**30 - 1) ** 15),
    "+".join(f"1/{10**9 - i}" for i in range(28)): str(sum(Fraction(1, 10**9 - i) for i in range(28))),
    "(" * 40 + "1" + ")" * 40: "1",
    "3x4": "12",
    "0 x 10": "0",
    "10x2": "20",
}
"""Text -> value; None if it is refused."""
_PROBE = """
import json, resource, sys, time, tracemalloc
texts = json.load(sys.stdin)
from pipelines.errors import UnparsableError
from pipelines.tasks import Answer, Example, load_task, task_spec
from pipelines.tasks.parsing.expressions import ExpressionError, evaluate_expression, format_value, normalise_expression, value_key
tasks, found = [load_task(task_spec(name, {})) for name in ("arithmetic", "grade-school-math")], []
example = Example("a", "?", "3")
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
tracemalloc.start()
for text in texts:
    tracemalloc.reset_peak()
    before, began = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        value = evaluate_expression(text)
        value_key(value)
        longest = format_value(value)
        assert value == evaluate_expression(normalise_expression(text))
        shown = longest
    except ExpressionError as error:
        shown = None
        assert len(str(error)) < 100
    labels = []
    for task in tasks:
        try:
            label = task.normalise(text, example)
        except UnparsableError:
            label = None
        task.same(text, "3", example)
        if label is not None:  # every label can be scored, filtered and shown
            task.key(label), task.value(label), task.leads_to("1 + 1 = 2", label, example)
            task.gives_away(Answer(label, "Faye has 3 rows."), example)
        labels.append(label)
    found.append([shown, labels[0], time.process_time() - began, tracemalloc.get_traced_memory()[1] - before])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """Text -> [value, label, seconds, bytes], from one process with limits of 64 MiB and 60 s."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], input=json.dumps(list(HOSTILE)), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(HOSTILE, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:24]))
def test_hostile_texts_cost_little_time_and_memory(text: str, outcomes: dict[str, Any]) -> None:
    value, label, seconds, memory = outcomes[text]
    assert value == HOSTILE[text]
    assert value is not None or label is None, "a label must have a value"
    assert seconds < 0.5
    assert memory < 10 * len(text) + (2 << 20)
