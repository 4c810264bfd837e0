import contextlib
import random
import time
from fractions import Fraction

import pytest

from pipelines.tasks.parsing.expressions import (
    ExpressionError,
    evaluate_expression,
    format_value,
    normalise_expression,
    value_key,
)


@pytest.mark.parametrize(
    ("text", "canonical", "value"),
    [
        ("( 84.0 / 2.0 )", "84 / 2", "42"),
        ("( ( 17.0 + 15.0 ) + 2.0 )", "17 + 15 + 2", "34"),
        ("4 - 2 - 1", "4 - 2 - 1", "1"),
        ("4-(2-1)", "4 - (2 - 1)", "3"),
        ("4 + (2 - 1)", "4 + 2 - 1", "5"),
        ("(1 + 2) * 3", "(1 + 2) * 3", "9"),
        ("1 + (2 * 3)", "1 + 2 * 3", "7"),
        ("2 * (3 / 4)", "2 * 3 / 4", "1.5"),
        ("2 / (3 * 4)", "2 / (3 * 4)", "1/6"),
        ("1,234.50 × 2", "1234.5 * 2", "2469"),
        ("1,000,000", "1000000", "1000000"),
        ("84 ÷ 2", "84 / 2", "42"),
        ("84 \\div 2", "84 / 2", "42"),
        ("3 \\times 4 \\cdot 5", "3 * 4 * 5", "60"),
        ("3 x 4", "3 * 4", "12"),
        ("7 − 5", "7 - 5", "2"),
        ("[7 + 5] * 2", "(7 + 5) * 2", "24"),
        ("3 - -2", "3 - (-2)", "5"),
        ("--2", "2", "2"),
        ("-(2 + 3) * 4", "-(2 + 3) * 4", "-20"),
        ("+5", "5", "5"),
        ("50 * 20%", "50 * 20 / 100", "10"),
        (".5 + 0.50", "0.5 + 0.5", "1"),
        ("007", "7", "7"),
        ("10 / 3", "10 / 3", "10/3"),
        ("0.1 + 0.2", "0.1 + 0.2", "0.3"),
    ],
)
def test_canonical_text_and_value(text: str, canonical: str, value: str) -> None:
    assert normalise_expression(text) == canonical
    assert format_value(evaluate_expression(text)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends where a number"),
        ("()", "unexpected `)`"),
        ("4 -", "ends where a number"),
        ("4 5", "unexpected `5`"),
        ("(4 - 1", "not closed"),
        ("4 - 1)", "unexpected `)`"),
        ("1 / 0", "division by zero"),
        ("1 / (2 - 2)", "division by zero"),
        ("1,23", "unexpected"),
        ("1.2.3", "unexpected"),
        ("2 ** 3", "unexpected `*`"),
        ("7 // 2", "unexpected `/`"),
        ("9 ^ 9", "unexpected"),
        ("٣ + 1", "unexpected"),
        ("１ + 1", "unexpected"),
        ("1\x00 + 1", "unexpected"),
        ("1e999", "unexpected"),
        ("nan", "unexpected"),
        ("__import__('os')", "unexpected"),
        ("9" * 31, "a number of 31 characters"),
        ("(" * 41 + "1" + ")" * 41, "deeper than 40"),
        ("-" * 300 + "1", "deeper than 40"),
        ("9" * 1_000_000, "the limit is 500"),
        ("(" * 1_000_000, "the limit is 500"),
        ("1+" * 500_000 + "1", "the limit is 500"),
    ],
    ids=lambda text: text[:20],
)
def test_hostile_and_broken_text_is_refused_at_once(text: str, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(ExpressionError) as error:
        normalise_expression(text)
    assert reason in str(error.value)
    assert len(str(error.value)) < 100
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "text", ["9*" * 249 + "9", "1+1*" * 124 + "1", "1" + "%" * 499, "9/7" + "/7" * 248], ids=lambda t: t[:6]
)
def test_the_longest_texts_are_read_quickly(text: str) -> None:
    start = time.process_time()
    with contextlib.suppress(ExpressionError):  # with its spaces some are longer than what is read
        normalise_expression(text)
    format_value(evaluate_expression(text))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1+" * 200 + "1", "801 characters"),
        ("." + "1" * 29, "31 characters"),
        ("1" + " - -(1" * 20 + ")" * 20, "deeper than 40"),
    ],
    ids=lambda text: text[:8],
)
def test_what_could_not_be_read_again_is_no_canonical_text(text: str, reason: str) -> None:
    evaluate_expression(text)
    with pytest.raises(ExpressionError, match=reason):
        normalise_expression(text)


def _random_text(chance: random.Random, depth: int) -> str:
    if depth == 0 or chance.random() < 0.2:
        return str(chance.choice((1, 2, 3.5, 7, 12)))
    if chance.random() < 0.1:
        return f"-({_random_text(chance, depth - 1)})"
    return f"({_random_text(chance, depth - 1)}){chance.choice('+-*/')}({_random_text(chance, depth - 1)})"


def test_the_canonical_text_keeps_the_value_and_is_its_own_canonical_text() -> None:
    chance, checked = random.Random(0), 0
    for _ in range(1000):
        text = _random_text(chance, 3)
        try:
            value = evaluate_expression(text)
        except ExpressionError:
            continue  # a division by zero
        canonical = normalise_expression(text)
        assert evaluate_expression(canonical) == value, text
        assert normalise_expression(canonical) == canonical, text
        checked += 1
    assert checked > 800


def test_keys_agree_to_six_decimals() -> None:
    assert value_key(Fraction(10, 3)) == value_key(Fraction("3.333333"))
    assert value_key(Fraction(10, 3)) != value_key(Fraction("3.33"))
    assert value_key(Fraction(84)) == value_key(Fraction("84.0")) == "84"
    assert value_key(Fraction(-1, 2)) == "-0.5"
