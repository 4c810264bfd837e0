"""Values inside of a row, by the names in `corpus.fields`.

{"data": {"question": "1 and 1?", "options": [{"text": "2"}, {"text": "3"}]},
 "messages": [{"role": "user", "content": "1 and 1?"}, {"role": "assistant", "content": "2"}]}

data.question         -> "1 and 1?"
data.options.text     -> ["2", "3"]
data.options.0.text   -> "2"
messages.user         -> "1 and 1?"      the one message with this role; also `from` and `value` instead of `role` and `content`
messages.0.content    -> "1 and 1?"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.errors import BadRowError

_ROLES = (("role", "content"), ("from", "value"))
"""Keys of a message: OpenAI's, and those of ShareGPT."""


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """The value of a column or, if no column has this name, of a nested field. None if there is no such field.

    Raises:
        BadRowError: several messages have the role, or the message has parts that are no text.
    """
    if path in columns or "." not in path:
        return columns.get(path)
    found: Any = columns
    for step in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(step)
        elif isinstance(found, Sequence) and not isinstance(found, str | bytes):
            found = _of_list(found, step, path)
        else:
            return None
    return found


def _of_list(items: Sequence[Any], step: str, path: str) -> Any:
    if step.isdecimal():
        return items[int(step)] if int(step) < len(items) else None
    mappings = [item for item in items if isinstance(item, Mapping)]
    for role, content in _ROLES:
        if any(role in item for item in mappings):
            return _message([item.get(content) for item in mappings if item.get(role) == step], step, path)
    found = [item.get(step) for item in mappings]
    return found if found and len(found) == len(items) and None not in found else None


def _message(contents: list[Any], role: str, path: str) -> Any:
    if len(contents) > 1:
        raise BadRowError(
            f"{len(contents)} messages have the role `{role}`; name one by its number, as in messages.0.content"
        )
    content = contents[0] if contents else None
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise BadRowError(f"`{path}` has parts that are no text")
    return "".join(map(str, texts))
