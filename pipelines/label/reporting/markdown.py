"""Foreign text in Markdown. Neither the text nor a name in it can become markup: no Markdown, HTML or YAML."""

from __future__ import annotations

import re

# Control characters, and the marks that reorder text on the screen.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def fenced(text: str, language: str = "text") -> list[str]:
    """Lines of a fenced block that the text cannot close: the fence is longer than any run of backticks in it."""
    text = visible(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}{language}", *text.split("\n"), fence]


def code(text: object) -> str:
    """A code span on one line. Not for table cells, in which a `|` would end the cell."""
    flat = " ".join(visible(str(text)).split()) or " "
    ticks = "`" * (_longest_run(flat) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"


def visible(text: str) -> str:
    """The text with line feeds for all line ends, and invisible characters spelled out (`\\u202e`)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
