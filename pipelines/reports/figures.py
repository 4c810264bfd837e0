"""Plots of a page: matplotlib figures as inline SVG, one for light and one for dark pages. The style sheet shows one of them.

    picture(draw, name="accuracy", size=(4.6, 3.4), text="Bar chart: student 61.5%, teacher 74.0%.")
    -> Markup('<svg class="light" role="img" aria-label="Bar chart: ..." viewBox="...">...</svg><svg class="dark" ...')

`draw` gets an empty figure and the theme, once per theme. The same input gives the same bytes. Text stays text in the SVG, without math
mode, and uses the page's font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

Draw = Callable[[Any, "Theme"], None]
"""Draws on a matplotlib Figure."""
SERIES = 7
"""Number of distinguishable series."""


@dataclass(frozen=True)
class Theme:
    """Colours of a plot, the same as in the style sheet."""

    name: str
    ink: str
    muted: str
    grid: str
    quiet: str
    """Fill of secondary elements."""
    paper: str
    series: tuple[str, ...]
    """Distinguishable with colour blindness (after Okabe and Ito 2008), legible on the paper."""


@dataclass(frozen=True)
class Style:
    """Style of a series. Colour, marker and line each suffice to identify it."""

    colour: str
    marker: str
    line: Any


LIGHT = Theme(
    name="light",
    ink="#1c2430",
    muted="#5b6675",
    grid="#e3e7ec",
    quiet="#b6c0cc",
    paper="#ffffff",
    series=("#0067b1", "#d04f00", "#00795a", "#a3338f", "#8a6100", "#1c2430", "#5a4fcf"),
)
DARK = Theme(
    name="dark",
    ink="#e6eaf0",
    muted="#9aa6b5",
    grid="#2c3541",
    quiet="#56636f",
    paper="#161c24",
    series=("#5cb3f5", "#ff9061", "#3ecf9e", "#ee8fd9", "#e2b93b", "#e6eaf0", "#a4a8ff"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = (
    "solid",
    (0, (6, 2)),
    (0, (3, 1.5)),
    (0, (7, 2, 1.5, 2)),
    (0, (1.5, 1.5)),
    (0, (5, 1.5, 1.5, 1.5, 1.5, 1.5)),
    (0, (9, 3)),
)
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raystill",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.size": 9.5,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}


def series_style(theme: Theme, position: int) -> Style:
    """The style of the series at a position, from 0. Styles repeat after SERIES."""
    i = position % SERIES
    return Style(theme.series[i], _MARKERS[i], _LINES[i])


def picture(draw: Draw, *, name: str, size: tuple[float, float], text: str) -> Markup:
    """Two inline SVGs of the same plot.

    Args:
        name: unique on the page; prefix of the ids in the SVG. Letters, digits and hyphens.
        size: width and height; one unit is 72 units of the SVG, and text is 9.5 high.
        text: text alternative.
    """
    return Markup("").join(_svg(draw, theme, f"{name}-{theme.name}", size, text) for theme in (LIGHT, DARK))


def png(draw: Draw, size: tuple[float, float]) -> bytes:
    """The plot in the light theme."""
    return _drawn(draw, LIGHT, size, format="png", dpi=150, facecolor=LIGHT.paper)


def _svg(draw: Draw, theme: Theme, prefix: str, size: tuple[float, float], text: str) -> Markup:
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    return _inline(_drawn(draw, theme, size, format="svg", metadata=metadata).decode(), theme, prefix, text)


def _drawn(draw: Draw, theme: Theme, size: tuple[float, float], **options: Any) -> bytes:
    import matplotlib

    # The object interface: pyplot would pick a backend and keep global state.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The reader's browser has its own fonts: a glyph that the measuring font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        matplotlib.rcParams.update({**_defaults(matplotlib), **_SETTINGS, **_colours(theme)})
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, theme)
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def _defaults(matplotlib: Any) -> dict[str, Any]:
    """matplotlib's own defaults, so that a user's settings do not change a page."""
    kept = ("backend", "backend_fallback", "toolbar")
    return {key: value for key, value in matplotlib.rcParamsDefault.items() if key not in kept}


def _colours(theme: Theme) -> dict[str, str]:
    return {
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "text.color": theme.ink,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.muted,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "grid.color": theme.grid,
    }


_ROOT = re.compile(r'<svg\b[^>]*\bviewBox="([^"]*)"[^>]*>')
_STYLE = re.compile(r"<style\b.*?</style>", re.DOTALL)  # one rule for `*`, which would apply to the whole page
_TAG = re.compile(r"<[a-zA-Z][^<>]*>")
_OWN_ID = re.compile(r'\bid="([^"]*)"')
_REFERENCE = re.compile(r'(?:xlink:)?href="#([^"]*)"|url\(#([^)]*)\)')


def _inline(document: str, theme: Theme, prefix: str, text: str) -> Markup:
    """The SVG document as an element of a page: without head, style sheet and namespaces, and with prefixed ids."""
    root = _ROOT.search(document)
    assert root is not None, "matplotlib wrote no <svg>"
    body = _STYLE.sub("", document[root.end() :])
    # Only within tags: texts of the plot do not change. matplotlib escapes < and > in texts and attributes.
    body = _TAG.sub(lambda tag: _renamed(tag[0], prefix), body)
    head = f'<svg class="{theme.name}" role="img" aria-label="{escape(text)}" viewBox="{root[1]}">'
    return Markup(head + body.strip())


def _renamed(tag: str, prefix: str) -> str:
    tag = _OWN_ID.sub(rf'id="{prefix}-\1"', tag)
    return _REFERENCE.sub(lambda r: f'href="#{prefix}-{r[1]}"' if r[1] else f"url(#{prefix}-{r[2]})", tag)
