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
        ("( 84.0 / 2.0 )", "84 / 2", "42"), ("( ( 17.0 + 15.0 ) + 2.0 )", "17 + 15 + 2", "34"), ("4 - 2 - 1", "4 - 2 - 1", "1"),
        ("4-(2-1)", "4 - (2 - 1)", "3"), ("4 + (2 - 1)", "4 + 2 - 1", "5"), ("(1 + 2) * 3", "(1 + 2) * 3", "9"),
        ("1 + (2 * 3)", "1 + 2 * 3", "7"), ("2 * (3 / 4)", "2 * 3 / 4", "1.5"), ("2 / (3 * 4)", "2 / (3 * 4)", "1/6"),
        ("1,234.50 × 2", "1234.5 * 2", "2469"), ("1,000,000", "1000000", "1000000"), ("84 ÷ 2", "84 / 2", "42"),
        ("84 \\div 2", "84 / 2", "42"), ("3 \\times 4 \\cdot 5", "3 * 4 * 5", "60"), ("3 x 4", "3 * 4", "12"), ("7 − 5", "7 - 5", "2"),
        ("[7 + 5] * 2", "(7 + 5) * 2", "24"), ("3 - -2", "3 - (-2)", "5"), ("--2", "2", "2"), ("-(2 + 3) * 4", "-(2 + 3) * 4", "-20"),
        ("+5", "5", "5"), ("50 * 20%", "50 * 20 / 100", "10"), (".5 + 0.50", "0.5 + 0.5", "1"), ("007", "7", "7"),
        ("10 / 3", "10 / 3", "10/3"), ("0.1 + 0.2", "0.1 + 0.2", "0.3"),
    ],
)  # fmt: skip
def test_canonical_text_and_value(text: str, canonical: str, value: str) -> None:
    assert normalise_expression(text) == canonical
    assert format_value(evaluate_expression(text)) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "ends where a number"), ("()", "unexpected `)`"), ("4 -", "ends where a number"), ("4 5", "unexpected `5`"),
     ("(4 - 1", "not closed"), ("4 - 1)", "unexpected `)`"), ("1 / (2 - 2)", "division by zero"), ("1.2.3", "unexpected"),
     ("2 ** 3", "unexpected `*`"), ("9" * 31, "a number of 31 characters"), ("(" * 41 + "1" + ")" * 41, "deeper than 40"),
     ("-" * 300 + "1", "deeper than 40"), ("9" * 1_000_000, "the limit is 500")],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_refused_text_has_a_short_reason(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as error:
        normalise_expression(text)
    assert reason in str(error.value)
    assert len(str(error.value)) < 100


def test_unreadable_canonical_text_is_refused() -> None:
    deep = "1" + " - -(1" * 20 + ")" * 20
    for text, reason in (
        ("1+" * 200 + "1", "801 characters"),
        ("." + "1" * 29, "31 characters"),
        (deep, "deeper than 40"),
    ):
        evaluate_expression(text)
        with pytest.raises(ExpressionError, match=reason):
            normalise_expression(text)


def test_keys_agree_to_six_decimals() -> None:
    assert value_key(Fraction(10, 3)) == value_key(Fraction("3.333333"))
    assert value_key(Fraction(10, 3)) != value_key(Fraction("3.33"))
    assert value_key(Fraction(84)) == value_key(Fraction("84.0")) == "84"
    assert value_key(Fraction(-1, 2)) == "-0.5"
