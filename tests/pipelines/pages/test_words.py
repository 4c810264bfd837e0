from __future__ import annotations

import pytest

from pipelines.pages import words
from pipelines.pages.tables import Cell, table, without_empty


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.percent(0.1234), "12.3%"), (words.percent(None), "-"), (words.percents([0.0, 0.125]), "0.0 to 12.5%"),
        (words.percents(None), "-"), (words.fraction(0.125), "12.5%"), (words.fraction(1.0), "100%"),
        (words.points(-0.0321), "-3.2"), (words.points(None), "-"), (words.points_range([-0.012, 0.076]), "-1.2 to +7.6"),
        (words.number(134515008), "134,515,008"), (words.number(0.0), "0"), (words.number(0.02134), "0.0213"),
        (words.number(3.1), "3.10"), (words.number(1234.56), "1,234.6"), (words.number(None), "-"),
        (words.rounded(134515008), "135M"), (words.rounded(1_500_000_000), "1.5B"), (words.rounded(12), "12"),
        (words.duration(0.0455), "45.5 ms"), (words.duration(9.1), "9.1 s"), (words.duration(912), "15.2 min"),
        (words.duration(7200), "2.0 h"), (words.duration(None), "-"), (words.p_value(0.0), "< 1e-300"),
        (words.p_value(0.0004), "4e-04"), (words.p_value(0.25), "0.250"), (words.p_said(0.0), "p < 1e-300"),
        (words.p_said(0.0204), "p = 0.020"),
        (words.one_line("a\x1b[2J\n\n b"), "a [2J b"), (words.short("a  long\n\x00text", 8), "a long …"),
        (words.plural(1, "seed"), "1 seed"), (words.plural(1200, "seed"), "1,200 seeds"),
    ],
)  # fmt: skip
def test_how_numbers_are_written(said: str, expected: str) -> None:
    assert said == expected


def test_rows_with_the_same_first_header_are_one_group() -> None:
    made = table("c", ["a", "b", "n#"], [["x", "1", "2"], ["x", "2", "3"], ["y", "1", Cell("4", "ahead")]], heads=2)
    assert [[row[0].rows for row in group] for group in made.groups] == [[2, 0], [1]]
    assert [column.numeric for column in made.columns] == [False, False, True]
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        table("c", ["a", "b", "c"], [["x", "y"]])


def test_a_column_goes_only_where_it_is_empty_in_every_row() -> None:
    assert without_empty(["a", "b", "c"], [["1", "-", "-"], ["2", "-", "3"]], "-") == (
        ["a", "c"],
        [["1", "-"], ["2", "3"]],
    )
