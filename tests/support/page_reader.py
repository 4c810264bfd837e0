"""HTML pages as tests read them, and reports with hostile texts."""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

HOSTILE = "</td></svg></style><script>alert(1)</script><img src='//x.invalid/y' onerror=a()>\"' onload=\"{{ 7*7 }}{% raw %}$x_{$ \ud800"


class Page(HTMLParser):
    """Elements, texts and tables of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        """Rows of each table, with headers. A cell that spans rows is in each of them."""
        self._open = False
        self._left = 0
        self.feed(str(html))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([self.tables[-1][-1][0]] if self._left else [])
            self._left = max(self._left - 1, 0)
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._left += int(found.get("rowspan", "1")) - 1
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._open = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self.tables[-1][-1][-1] += data

    def rows(self) -> list[list[str]]:
        return [row for table in self.tables for row in table]

    def shape(self) -> set[tuple[str, str]]:
        """The kinds of elements, and their attributes."""
        return {(tag, name) for tag, found in self.elements for name in ["", *found]}


def hostile(value: Any, fixed: frozenset[str], path: str = "") -> Any:
    """The report with HOSTILE appended to every text, except at the paths in `fixed`, such as `systems.name`."""
    if path in fixed:
        return value
    if isinstance(value, Mapping):
        return {key: hostile(inner, fixed, f"{path}.{key}" if path else key) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, fixed, path) for inner in value]
    return value + HOSTILE if isinstance(value, str) else value


def assert_needs_nothing_else(html: str) -> None:
    """No script, no form, no request, and a policy that forbids them; ids are unique, and every reference has a target."""
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "form", "base", "img"} & {tag for tag, _ in page.elements}
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    policy = {"http-equiv": "Content-Security-Policy", "content": allowed}
    assert ("meta", policy) in page.elements
    names = [name for _, found in page.elements for name in found]
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset")]
    assert not [text for text in ("@import", "http:", "https:") if text in html]
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    links = [found.get("href", "#") for _, found in page.elements if found.get("rel") != "icon"]
    inner = [part.partition(")")[0] for part in html.split("url(")[1:]]
    targets = {link for link in [*links, *inner] if link != "#"}
    assert targets <= {f"#{one}" for one in ids}
