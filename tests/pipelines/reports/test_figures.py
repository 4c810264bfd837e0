import re
import subprocess
import sys
from typing import Any

from pipelines.reports.curves import LEVEL_LINES, Chart, Curve, Level, curves_picture, span_of
from pipelines.reports.figures import DARK, LIGHT, SERIES, Theme, picture, series_style
from tests.support.page_reader import HOSTILE, Page


def drawn(name: str = "made", title: str = "a title", text: str = "text") -> str:
    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.plot([0, 1], [0, 1], marker="o", color=theme.series[0])
        axes.fill_between([0, 1], [0, 0], [1, 2])

    return picture(draw, name=name, size=(3.0, 2.0), text=text)


def test_each_theme_has_an_svg_with_a_text_alternative() -> None:
    html = drawn()
    roots = [found for tag, found in Page(html).elements if tag == "svg"]
    assert [(root["class"], root["role"], root["aria-label"]) for root in roots] == [
        ("light", "img", "text"), ("dark", "img", "text"),
    ]  # fmt: skip
    assert LIGHT.series[0] in html
    assert DARK.series[0] in html
    assert not {"style", "metadata", "script"} & {tag for tag, _ in Page(html).elements}
    assert "http" not in html
    assert "<?xml" not in html
    ids = re.findall(r'\bid="([^"]*)"', html + drawn("two"))
    references = re.findall(r'(?:href="#|url\(#)([^")]*)', html)
    assert len(ids) == len(set(ids)), "ids of two plots differ"
    assert references
    assert set(references) <= set(ids)


def test_texts_are_neither_markup_nor_math() -> None:
    wild_title = f'id="x" url(#y) {HOSTILE}'.replace("\ud800", "")  # which matplotlib refuses
    tame, wild = drawn(), drawn(title=wild_title, text=HOSTILE)
    assert Page(wild).shape() == Page(tame).shape()
    assert wild_title in Page(wild).text
    assert {found["aria-label"] for tag, found in Page(wild).elements if tag == "svg"} == {HOSTILE}


def test_other_processes_and_settings_give_the_same_bytes() -> None:
    code = (
        "import matplotlib; matplotlib.rcParams.update({'font.size': 30, 'text.color': 'red', 'svg.fonttype': 'path'});"
        "from tests.pipelines.reports.test_figures import drawn; print(drawn(), end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == drawn()


def test_series_differ_also_without_colour() -> None:
    styles = [series_style(LIGHT, position) for position in range(SERIES)]
    assert len({style.marker for style in styles}) == len({str(style.line) for style in styles}) == SERIES
    assert len({style.colour for style in styles}) == len(set(DARK.series)) == SERIES


CURVE = Curve("finetune", 0, (0.25, 1.0), (8.0, 10.0), (6.0, 8.0), (10.0, 12.0))


def test_a_far_level_is_named_at_the_edge() -> None:
    levels = (Level("teacher", 74.0, LEVEL_LINES[0]), Level("majority label", 5.0, LEVEL_LINES[1]))
    span = span_of([CURVE], levels)
    assert span.low <= 5.0
    assert 12.0 < span.high < 20.0
    chart = Chart("made", {0.25: "25%", 1.0: "100%"}, "labels", (CURVE,), levels, span)
    text = Page(curves_picture(chart, name="made", text="text")).text
    assert "▲ teacher, 74.0%" in text
    assert "majority label, 5.0%" in text
    assert "▼" not in text


def test_names_of_close_places_do_not_overlap() -> None:
    places = {0.01: "1%", 0.011: "1.1%", 0.5: "50%", 1.0: "100%"}
    curve = Curve("finetune", 0, tuple(places), (1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0), (2.0, 3.0, 4.0, 5.0))
    chart = Chart("made", places, "labels", (curve,), (), span_of([curve], ()))
    words = Page(curves_picture(chart, name="made", text="text")).text.split()
    assert words[:5] == ["1.1%", "50%", "100%", "labels", "(logarithmic)"]
