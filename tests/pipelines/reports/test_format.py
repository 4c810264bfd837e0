import pytest

from pipelines.reports import format
from pipelines.reports.tables import Cell, table, without_empty


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format.percent(0.1234), "12.3%"), (format.percent(None), "-"), (format.percents([0.0, 0.125]), "0.0 to 12.5%"),
        (format.percents(None), "-"), (format.fraction(0.125), "12.5%"), (format.fraction(1.0), "100%"),
        (format.points(-0.0321), "-3.2"), (format.points(None), "-"), (format.points_range([-0.012, 0.076]), "-1.2 to +7.6"),
        (format.number(134515008), "134,515,008"), (format.number(0.0), "0"), (format.number(0.02134), "0.0213"),
        (format.number(3.1), "3.10"), (format.number(1234.56), "1,234.6"), (format.number(None), "-"),
        (format.rounded(134515008), "135M"), (format.rounded(1_500_000_000), "1.5B"), (format.rounded(12), "12"),
        (format.duration(0.0455), "45.5 ms"), (format.duration(9.1), "9.1 s"), (format.duration(912), "15 min 12 s"),
        (format.duration(7200), "2 h 00 min"), (format.duration(None), "-"), (format.p_value(0.0), "< 1e-300"),
        (format.p_value(0.0004), "4e-04"), (format.p_value(0.25), "0.250"), (format.p_text(0.0), "p < 1e-300"),
        (format.p_text(0.0204), "p = 0.020"),
        (format.one_line("a\x1b[2J\n\n b"), "a [2J b"), (format.short("a  long\n\x00text", 8), "a long …"),
        (format.plural(1, "seed"), "1 seed"), (format.plural(1200, "seed"), "1,200 seeds"),
    ],
)  # fmt: skip
def test_numbers_have_one_format(text: str, expected: str) -> None:
    assert text == expected


def test_rows_with_an_equal_first_header_are_one_group() -> None:
    made = table("c", ["a", "b", "n#"], [["x", "1", "2"], ["x", "2", "3"], ["y", "1", Cell("4", "better")]], heads=2)
    assert [[row[0].rows for row in group] for group in made.groups] == [[2, 0], [1]]
    assert [column.numeric for column in made.columns] == [False, False, True]
    rows = [["1", "-", "-"], ["2", "-", "3"]]
    assert without_empty(["a", "b", "c"], rows, "-") == (["a", "c"], [["1", "-"], ["2", "3"]]), "b has no value"
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        table("c", ["a", "b", "c"], [["x", "y"]])
