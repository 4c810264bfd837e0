"""Template and values -> one self-contained HTML file: no script, no network, styles and plots inline.

Every value is untrusted text (answers, ids, file names) and is escaped, except plots, which are Markup. A missing value is an error.
Templates are files of the packages below `pipelines`:

    render("evaluate/page.html.j2", report=report, accuracy=picture(...))
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The page. Invalid Unicode (a lone surrogate that JSON let through) becomes `?`."""
    page = _environment().get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipelines", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
