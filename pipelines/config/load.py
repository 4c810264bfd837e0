"""Reading a run file: YAML and `--set section.key=value` in, a validated `RunConfig` out. Errors name the key."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipelines.config import RunConfig
from pipelines.config.paths import Tree, with_absolute_paths
from pipelines.errors import UserError
from pipelines.storage.filesystems import check_no_credentials


class _DuplicateKeyError(yaml.YAMLError):
    """A mapping has a key twice. YAML forbids that; PyYAML would keep the last one."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the numbers of YAML 1.2: in 1.1, `1e-4` is a text. Refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ. Raises _DuplicateKeyError."""
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in seen:
                    raise _DuplicateKeyError(f"the key `{key.value}` is given twice, in lines {seen[name]} and {line}")
                seen[name] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_run(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run file, apply the overrides, and make its paths absolute (paths.py).

    Args:
        overrides: `section.key=value`; values are YAML.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown, or a value breaks its rule.
    """
    file, overrides = Path(path), tuple(overrides)
    if file.is_dir():
        raise UserError(str(path), "a folder, must be a run file", f"Give a file in it, such as {file / 'run.yaml'}.")
    if not file.is_file():
        raise UserError(str(path), "there is no such run file", "Give the path of a YAML run file.")
    tree = _read_yaml(file)
    if not isinstance(tree, dict):
        raise UserError(str(path), "a run file is a mapping of sections", "Begin with `name: ...`, `output: ...`.")
    overridden = frozenset(override.partition("=")[0].strip() for override in overrides)
    whole = with_absolute_paths(apply_overrides(tree, overrides), file.parent, overridden)
    return parse_run(whole, origin=str(path))


def _read_yaml(file: Path) -> object:
    try:
        tree: object = yaml.load(file.read_text(encoding="utf-8"), _Loader)
        _check_no_cycle(tree)
    except _DuplicateKeyError as error:
        raise UserError(str(file), str(error), "Keep one of them.") from error
    except UnicodeDecodeError as error:
        raise UserError(str(file), f"not UTF-8 (byte {error.start})", "Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(str(file), f"it cannot be read ({error.strerror})", "Change its permissions.") from error
    except RecursionError as error:
        raise UserError(str(file), "nested too deeply, or in itself", "Write the values out.") from error
    except (yaml.YAMLError, ValueError) as error:
        rule = f"not readable as YAML ({' '.join(str(error).split())[:_YAML_CHARACTERS]})"
        raise UserError(str(file), rule, "Fix the file.") from error
    return tree


def _check_no_cycle(value: object) -> None:
    """Raise RecursionError if a value contains itself."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in items:
        _check_no_cycle(item)


def apply_overrides(tree: Tree, overrides: Iterable[str]) -> Tree:
    """A copy of the tree with `section.key=value` overrides applied. Raises UserError if one is malformed."""
    result = copy.deepcopy(tree)
    for override in overrides:
        _apply(result, override)
    return result


def parse_run(tree: Tree, origin: str = "run") -> RunConfig:
    """Validate a tree as a run. Raises UserError with every broken rule and its key, or for a URI with credentials."""
    _check_no_credentials(tree)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(e) for e in error.errors()]
        raise UserError(origin, "; ".join(problems), "Correct the run file or the --set.") from error


def _check_no_credentials(value: object) -> None:
    if isinstance(value, Mapping):
        for item in value.values():
            _check_no_credentials(item)
    elif isinstance(value, list):
        for item in value:
            _check_no_credentials(item)
    elif isinstance(value, str):
        check_no_credentials(value)


def _apply(tree: Tree, override: str) -> None:
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        raise UserError(f"--set {override}", "must be section.key=value", "For example: --set teacher.engine=echo")
    try:
        value = yaml.load(text, _Loader)
    except _DuplicateKeyError as error:
        raise UserError(f"--set {override}", str(error), "Keep one of them.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not text.startswith("*"):  # a glob, such as corpus.train=*.csv, which YAML takes for an alias
            remedy = f"Put a text into quotes of YAML: --set '{key}=\"...\"'."
            raise UserError(f"--set {override}", "the value is not YAML", remedy) from error
        value = text
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override}", f"`{part}` is a value, not a section", "Set the key above it.")
        node = child
    node[parts[-1]] = value


_YAML_CHARACTERS = 300
_TRIED = re.compile(r"(constrained-|function-|list\[|dict\[)|(str|int|float|bool)$")
"""What pydantic appends to a key of several types: the type that it tried."""


def _explain(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"] if not _TRIED.match(str(part)))
    if error["type"] == "extra_forbidden":
        *parents, name = (str(p) for p in error["loc"])
        known = _keys(parents)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        return f"unknown key `{key}` ({hint}known here: {', '.join(known)})"
    if error["type"] == "missing":
        return f"`{key}` is missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    shown = "" if isinstance(given, Mapping | BaseModel) else f" (it is {given!r})"
    return f"`{key}`: {message}{shown}" if key else message


def _keys(parents: list[str]) -> list[str]:
    """The keys of the section at this path."""
    model: type[BaseModel] = RunConfig
    for part in parents:
        field = model.model_fields.get(part)
        # An optional section is a union with None.
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)
