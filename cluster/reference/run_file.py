"""docs/reference/run-file.md: every key of a run file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cluster.reference.fields import default_text, meanings, nested, sentence, table, type_text
from pipelines.config import RunConfig

_HEAD = """# Run file

A run file is YAML. Paths are relative to the file; those of `--set KEY=VALUE` are relative to the shell's folder.
An unknown key is refused. `name`, `output`, `task`, `corpus` and `teacher` are required, and `student` for every stage but `label`.

"""


def run_file_page() -> str:
    """The page."""
    text = _HEAD
    for prefix, model, default in _sections("", RunConfig, PydanticUndefined):
        title = f"{'###' if '.' in prefix else '##'} {prefix}" if prefix else "## Top level"
        text += f"{title}\n\n{sentence(model)}\n\n{_keys(prefix, model, default)}\n"
    return text


def _keys(prefix: str, model: type[BaseModel], default: Any) -> str:
    explained = meanings(model)
    rows = []
    for name, field in model.model_fields.items():
        value = getattr(default, name) if isinstance(default, BaseModel) else PydanticUndefined
        if section := nested(field.annotation):
            anchor = f"{prefix}.{name}".replace(".", "").replace(" ", "-")
            may_be_null = None in (value, field.default)
            shown = f"[section](#{anchor}){', or null' if may_be_null else ''}"
            text = explained.get(name) or sentence(section)
            rows.append([f"`{name}`", shown, "", text])
        else:
            rows.append(
                [
                    f"`{name}`",
                    type_text(field.annotation, field.metadata),
                    default_text(field, value),
                    explained.get(name, ""),
                ]
            )
    return table(["key", "value", "default", "meaning"], rows)


def _sections(prefix: str, model: type[BaseModel], default: Any) -> Iterator[tuple[str, type[BaseModel], Any]]:
    """(name, model, default value) of the run file and of each section, outer ones first."""
    yield prefix, model, default
    for name, field in model.model_fields.items():
        if section := nested(field.annotation):
            value = getattr(default, name) if isinstance(default, BaseModel) else field.default
            yield from _sections(f"{prefix}.{name}".lstrip("."), section, value)
