"""The evaluator against exact arithmetic on random expressions, and against texts that would harm one that is not careful."""

from __future__ import annotations

import contextlib
import json
import math
import random
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

NUM = 10_000
SPACES = ("", "", " ", "  ", "\t")
SUM, PRODUCT, SIGNED, ATOM = range(4)
"""How tightly a text binds, loosest first."""


class _DivisionByZeroError(Exception):
    pass


def _number(chance: random.Random) -> tuple[str, Fraction]:
    whole, decimals = str(chance.choice((0, 1, 2, 7, 10, 84, 1000, chance.randrange(10**6)))), chance.randrange(1000)
    text = chance.choice(
        (whole, whole, f"{whole}.{decimals}", f".{decimals}", f"{whole}.", f"00{whole}", f"{whole}.50")
    )
    return text, Fraction(f"0{text}0" if text.endswith(".") else f"0{text}")


def _expression(chance: random.Random, depth: int) -> tuple[str, int, Fraction]:
    """(text, how tightly it binds, value) of a random tree. The value follows the tree, and no parser ever sees it."""
    kind = "number" if depth == 0 else chance.choice(("number", "minus", "+", "-", "*", "/"))
    if kind == "number":
        text, value = _number(chance)
        return text, ATOM, value
    if kind == "minus":
        text, value = _operand(chance, depth - 1, SIGNED)
        return f"-{chance.choice(SPACES)}{text}", SIGNED, -value
    binds = SUM if kind in "+-" else PRODUCT
    left, first = _operand(chance, depth - 1, binds)
    right, second = _operand(chance, depth - 1, binds + 1)
    text = f"{left}{chance.choice(SPACES)}{kind}{chance.choice(SPACES)}{right}"
    if kind == "/" and second == 0:
        raise _DivisionByZeroError(text)
    value = {"+": first + second, "-": first - second, "*": first * second, "/": first / (second or 1)}[kind]
    return text, binds, value


def _operand(chance: random.Random, depth: int, at_least: int) -> tuple[str, Fraction]:
    """An expression as part of another: in parentheses where it binds less tightly than it must, and now and then where not."""
    text, binds, value = _expression(chance, depth)
    while binds < at_least or chance.random() < 0.1:
        text, binds = f"({chance.choice(SPACES)}{text}{chance.choice(SPACES)})", ATOM
    return text, value


def test_random_expressions_have_the_value_of_exact_arithmetic() -> None:
    chance = random.Random(2026)
    valued = rendered = refused = 0
    while valued + refused < NUM:
        try:
            text, _, value = _expression(chance, chance.randrange(1, 6))
        except _DivisionByZeroError as error:
            if len(str(error)) <= MAX_CHARACTERS:
                with pytest.raises(ExpressionError, match="division by zero"):
                    evaluate_expression(str(error))
                refused += 1
            continue
        if len(text) > MAX_CHARACTERS:
            continue
        assert evaluate_expression(text) == value, text
        with contextlib.suppress(ExpressionError):  # as long as may be, and with its spaces longer
            assert evaluate_expression(normalise_expression(text)) == value, text
            rendered += 1
        valued += 1
    assert rendered > 0.99 * valued > 0.8 * NUM
    assert refused > 100


HOSTILE: dict[str, str | None] = {
    "9**9**9": None,
    "9^9^9": None,
    "9" + "**9" * 100: None,
    "(" * 10_000 + "1" + ")" * 10_000: None,
    "(" * 200 + "1" + ")" * 200: None,
    "-" * 400 + "1": None,
    "x": None,
    "pi": None,
    "inf": None,
    "nan": None,
    "1j": None,
    "True": None,
    "__import__('os').system('x')": None,
    "open('/etc/passwd').read()": None,
    "print(1)": None,
    "abs(-1)": None,
    "exit()": None,
    "(1).__class__": None,
    "1 .real": None,
    "1..real": None,
    "[1][0]": None,
    "[i for i in (1,)]": None,
    "lambda: 1": None,
    "(lambda: 1)()": None,
    "1 if 1 else 2": None,
    "a := 1": None,
    "1; 2": None,
    "1\n2": None,
    "f'{1}'": None,
    "'1' * 9": None,
    "1 << 99": None,
    "7 // 2": None,
    "7 % 2": None,
    "1 < 2": None,
    "1 and 2": None,
    "٣": None,  # an Arabic digit, which int() reads
    "٣ + 1": None,
    "²": None,  # str.isdigit() holds of it
    "3²": None,
    "１": None,  # a full-width digit, which int() reads
    "１ + 1": None,
    "½": None,
    "Ⅷ": None,
    "1\x00": None,
    "\x00": None,
    "1\x00+1": None,
    "\ud800": None,
    "9" * 31: None,
    "9" * 100_000: None,
    "0." + "1" * 100_000: None,
    "9." * 1000: None,
    "1e999999": None,
    "1E9": None,
    "1e-9": None,
    "1_000": None,
    "0x10": None,  # neither 16 nor 0 times 10
    "0X10": None,
    "0b11": None,
    "0o17": None,
    "1,00": None,
    "1/0": None,
    "1/(1-1)": None,
    "1/0%": None,
    "1 # 2": None,
    "1\\\n+1": None,
    "9" + "/7" * 1_000_000: None,
    "1+" * 1_000_000 + "1": None,
    "1+" * 200 + "1": None,  # longer than may be once it has its spaces
    "1" + "%" * 499: None,
    "." + "1" * 29: None,
    # Within the limits, and as costly as a text of their length can be.
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
        canonical = normalise_expression(text)
        value = evaluate_expression(canonical)
        assert value == evaluate_expression(text)
        value_key(value)
        said = format_value(value)
    except ExpressionError as error:
        said = None
        assert len(str(error)) < 100
    labels = []
    for task in tasks:
        try:
            label = task.normalise(text, example)
        except UnparsableError:
            label = None
        task.same(text, "3", example)
        if label is not None:  # what is taken for a label can be scored, filtered and shown
            task.key(label), task.value(label), task.leads_to("1 + 1 = 2", label, example)
            task.gives_away(Answer(label, "Faye has 3 rows."), example)
        labels.append(label)
    found.append([said, labels[0], time.process_time() - began, tracemalloc.get_traced_memory()[1] - before])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What becomes of each hostile text in a process that may have 64 MiB more and a minute: [value, label, seconds, bytes]."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], input=json.dumps(list(HOSTILE)), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(HOSTILE, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:24]))
def test_hostile_texts_are_refused_or_valued_at_once(text: str, outcomes: dict[str, Any]) -> None:
    value, label, seconds, memory = outcomes[text]
    assert value == HOSTILE[text]
    assert value is not None or label is None, "what has no value is no label"
    assert seconds < 0.5
    assert memory < 10 * len(text) + (2 << 20)
