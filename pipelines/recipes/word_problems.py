"""Generated one-step word problems: the corpus of the quickstart.

In: a count and a seed. Out: rows. Equal arguments give equal rows on every machine:

    {"id": "apples-train-0", "input": "Anne has 14 apples and gives Peter 3. How many apples has Anne left?",
     "label": "14 - 3"}

The label is an expression over the numbers of the text. Training and test rows come from different sentence templates that share the
vocabulary of their operation, so that a student cannot recall templates. The order of the numbers differs between the templates of an
operation.

`python -m pipelines.recipes.word_problems FOLDER` writes train.jsonl and test.jsonl.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pipelines.recipes.rows import SEED, TEST_ROWS, TRAIN_ROWS, Row, draw_unused, write_rows

Operation = Literal["+", "-", "*", "/"]
OPERATIONS: tuple[Operation, ...] = ("+", "-", "*", "/")
LARGEST = 20


@dataclass(frozen=True)
class Template:
    """A problem with placeholders. The label is `{a} operation {b}`, in any order of the two in the text."""

    operation: Operation
    text: str


_TRAIN: dict[Operation, tuple[str, ...]] = {
    "+": (
        "{name} has {a} {thing}. {friend} gives {him} {b} more. How many {thing} does {name} have now?",
        "{name} has {a} {thing} and {friend} has {b} {thing}. How many {thing} do they have together?",
        "There are {a} {thing} in a {box}. {name} puts in {b} more. How many {thing} are in the {box} now?",
        "{name} buys {a} {thing} on Monday and {b} {thing} on Tuesday. How many {thing} does {he} buy in total?",
        "{name} finds {b} {thing}. {He} already had {a} {thing}. How many {thing} does {he} have now?",
        "{name} picks {a} {thing} and {friend} picks {b} {thing}. How many {thing} do they pick in total?",
        "One {box} holds {a} {thing}. Another {box} holds {b} {thing}. How many {thing} are there altogether?",
        "{name} has {a} {thing}. {friend} has {b} more {thing} than {name}. How many {thing} does {friend} have?",
    ),
    "-": (
        "{name} has {a} {thing} and gives {friend} {b}. How many {thing} has {name} left?",
        "{name} had {a} {thing}. {He} lost {b} of them. How many {thing} are left?",
        "{name} gives away {b} of {his} {a} {thing}. How many {thing} does {he} have left?",
        "There are {a} {thing} in a {box}. {name} takes out {b} {thing}. How many {thing} are still in the {box}?",
        "{name} sells {b} {thing}. {He} had {a} {thing} before. How many {thing} does {he} have now?",
        "{name} has {a} {thing} and {friend} has {b} {thing}. How many more {thing} does {name} have than {friend}?",
        "{name} has {b} {thing}. {He} needs {a} {thing}. How many more {thing} does {he} need?",
        "{name} has {a} {thing}. {friend} has {b} fewer {thing} than {name}. How many {thing} does {friend} have?",
    ),
    "*": (
        "{name} has {a} {box}s. There are {b} {thing} in each {box}. How many {thing} does {name} have?",
        "There are {a} {thing} in every {box}. {name} buys {b} {box}s. How many {thing} does {he} get?",
        "{name} gives {a} {thing} to each of {b} friends. How many {thing} does {he} give away in total?",
        "{name} finds {a} {thing} every day. How many {thing} does {he} find in {b} days?",
        "There are {a} rows with {b} {thing} in each row. How many {thing} are there altogether?",
        "Each of {a} children has {b} {thing}. How many {thing} do they have in total?",
        "{name} buys {b} {box}s with {a} {thing} each. How many {thing} does {he} buy?",
        "{friend} has {a} {thing}. {name} has {b} times as many. How many {thing} does {name} have?",
    ),
    "/": (
        "{name} shares {a} {thing} equally among {b} friends. How many {thing} does each friend get?",
        "{b} friends share {a} {thing} equally. How many {thing} does each of them get?",
        "{name} puts {a} {thing} into {b} {box}s, the same number into each. How many {thing} are in each {box}?",
        "{name} has {b} {box}s for {a} {thing}. Each {box} gets the same number. How many {thing} go into each {box}?",
        "{name} has {a} {thing}. {He} puts {b} {thing} into each {box}. How many {box}s does {he} need?",
        "Each {box} holds {b} {thing}. How many {box}s does {name} need for {a} {thing}?",
        "{a} {thing} are split equally into {b} rows. How many {thing} are in each row?",
        "{name} gives {b} {thing} to each child. {He} gives away {a} {thing}. How many children are there?",
    ),
}

_TEST: dict[Operation, tuple[str, ...]] = {
    "+": (
        "{name} had {a} {thing}. Then {he} buys {b} more {thing}. How many {thing} does {he} have altogether?",
        "{name}'s {box} holds {a} {thing} and {friend}'s {box} holds {b}. How many {thing} are there in total?",
        "{friend} gives {name} {b} more {thing}. {name} had {a} {thing} before. How many {thing} does {he} have now?",
    ),
    "-": (
        "{name} had {a} {thing} and gives away {b}. How many {thing} does {he} have now?",
        "{name} takes {b} {thing} out of a {box} with {a} {thing}. How many {thing} are left in the {box}?",
        "{friend} has {b} {thing} and {name} has {a}. How many fewer {thing} does {friend} have than {name}?",
    ),
    "*": (
        "{name} has {a} {box}s with {b} {thing} in each of them. How many {thing} are there in total?",
        "Each {box} holds {a} {thing}. How many {thing} are in {b} {box}s?",
        "{name} picks {a} {thing} every day for {b} days. How many {thing} does {he} pick altogether?",
    ),
    "/": (
        "{name} splits {a} {thing} equally among {b} children. How many {thing} does each child get?",
        "{a} {thing} are in {b} {box}s, the same number in each {box}. How many {thing} does each {box} hold?",
        "{b} children get {a} {thing}. Each child gets the same number. How many {thing} does each of them get?",
    ),
}

TRAIN_TEMPLATES = tuple(Template(operation, text) for operation in OPERATIONS for text in _TRAIN[operation])
TEST_TEMPLATES = tuple(Template(operation, text) for operation in OPERATIONS for text in _TEST[operation])

_WOMEN = ("Anne", "Mary", "Sue", "Lena", "Julia", "Emma", "Nora", "Ella", "Rosa", "Kate", "Alice", "Maya")
_MEN = ("Peter", "Thomas", "Tom", "John", "Paul", "Max", "Sam", "Adam", "David", "Leo", "Mark", "Omar")
_THINGS = ("apples", "pears", "books", "pens", "cards", "eggs", "shells", "stamps", "coins", "balls", "nuts", "cookies",
           "flowers", "stickers", "marbles", "lemons", "candles", "buttons")  # fmt: skip
_BOXES = ("box", "bag", "basket", "jar", "bowl", "tin")


def train_rows(count: int, seed: int) -> list[Row]:
    """Generate rows from the training templates. Operations and templates alternate.

    Raises:
        ValueError: the templates have too few different rows (some thousands).
    """
    return _rows("train", TRAIN_TEMPLATES, count, seed)


def test_rows(count: int, seed: int) -> list[Row]:
    """Generate rows from the held-out templates."""
    return _rows("test", TEST_TEMPLATES, count, seed)


def _rows(split: str, templates: Sequence[Template], count: int, seed: int) -> list[Row]:
    generator = random.Random(f"word problems, {split}, seed {seed}")
    by_operation = [[t for t in templates if t.operation == operation] for operation in OPERATIONS]
    plan = []
    for i in range(count):
        same = by_operation[i % len(OPERATIONS)]
        plan.append(same[i // len(OPERATIONS) % len(same)])
    generator.shuffle(plan)
    used: set[tuple[str, str]] = set()
    rows = []
    for i, template in enumerate(plan):
        text, label = draw_unused(partial(_problem, template, generator), used)
        rows.append({"id": f"apples-{split}-{i}", "input": text, "label": label})
    return rows


def _problem(template: Template, generator: random.Random) -> tuple[str, str]:
    a, b = _operands(template.operation, generator)
    woman = generator.random() < 0.5
    name = generator.choice(_WOMEN if woman else _MEN)
    words = {
        "name": name,
        "friend": generator.choice([other for other in (*_WOMEN, *_MEN) if other != name]),
        "he": "she" if woman else "he",
        "He": "She" if woman else "He",
        "his": "her" if woman else "his",
        "him": "her" if woman else "him",
        "thing": generator.choice(_THINGS),
        "box": generator.choice(_BOXES),
    }
    text = template.text.format(a=a, b=b, **words).replace("boxs", "boxes")
    return text, f"{a} {template.operation} {b}"


def _operands(operation: Operation, generator: random.Random) -> tuple[int, int]:
    """Choose two numbers with a whole result. Results vary, so that a constant answer is rarely right."""
    if operation == "-":
        b = generator.randint(2, LARGEST)
        return b + generator.randint(2, LARGEST), b
    if operation == "/":
        b = generator.randint(2, 9)
        return b * generator.randint(2, LARGEST), b
    return generator.randint(2, LARGEST), generator.randint(2, LARGEST)


def main(arguments: Sequence[str]) -> None:
    """Write the shipped corpus to a folder."""
    if len(arguments) != 1:
        sys.exit("Usage: python -m pipelines.recipes.word_problems FOLDER")
    folder = Path(arguments[0])
    write_rows(folder / "train.jsonl", train_rows(TRAIN_ROWS, SEED))
    write_rows(folder / "test.jsonl", test_rows(TEST_ROWS, SEED))


if __name__ == "__main__":
    main(sys.argv[1:])
