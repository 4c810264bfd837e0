"""Server-side apply as an API server does it, and the writes of KubeRay's operator, without either.

A model of kubernetes-sigs/structured-merge-diff (merge/update.go, typed/compare.go) for custom resources: managers own leaf fields, a list
without x-kubernetes-list-type is one leaf, and an apply conflicts if it changes a leaf that another manager owns. Defaults of the CRD are
set after each write, so a live object differs from the manifest that made it. The order of list entries is not modelled.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.k8s.quantities import canonical

Object = dict[str, Any]
Path = tuple[Any, ...]
_METADATA: Object = {
    "type": "object",
    "properties": {
        "finalizers": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        **{key: {"type": "object", "additionalProperties": {"type": "string"}} for key in ("labels", "annotations")},
    },
}
_WRITTEN_EMPTY = ("scaleStrategy", "rayStartParams")
"""Fields that KubeRay's Go types write even if they are empty (raycluster_types.go: no pointer, or no omitempty)."""
_LEFT_OUT_IF_FALSE = ("readOnly", "hostNetwork", "suspend", "shutdownAfterJobFinishes")
_QUANTITIES = ("limits", "requests")


class ConflictError(Exception):
    """An apply changes fields that others own. The message is kubectl's."""


@dataclass
class Server:
    """One object of an API server."""

    schema: Object
    """openAPIV3Schema of its kind."""
    live: Object = field(default_factory=dict)
    owners: dict[str, set[Path]] = field(default_factory=dict)
    """Manager -> the leaf fields that it owns."""

    def __post_init__(self) -> None:
        self.schema = {**self.schema, "properties": {**self.schema["properties"], "metadata": _METADATA}}

    def apply(self, manager: str, config: Object) -> None:
        """`kubectl apply --server-side --field-manager MANAGER`. Raises ConflictError."""
        wanted = _leaves(config, self.schema)
        merged = _merge(self.live, config, self.schema)
        others = {path for name, owned in self.owners.items() if name != manager for path in owned}
        for path in self.owners.get(manager, set()) - set(wanted) - others:
            _remove(merged, path)
        changed = _changed(_leaves(self.live, self.schema), _leaves(merged, self.schema))
        for name, owned in self.owners.items():
            if name != manager and (lost := sorted(map(_shown, owned & changed))):
                raise ConflictError(f'conflict with "{name}": {", ".join(lost)}')
        self.owners[manager] = set(wanted)
        self._store(merged)

    def update(self, manager: str, change: Callable[[Object], None]) -> None:
        """A read and a full write of the changed object. The manager takes what it changes from others."""
        written = copy.deepcopy(self.live)
        change(written)
        _set_defaults(written, self.schema)
        changed = _changed(_leaves(self.live, self.schema), _leaves(written, self.schema))
        for owned in self.owners.values():
            owned -= changed
        self.owners.setdefault(manager, set()).update(changed)
        self._store(written)

    def _store(self, written: Object) -> None:
        _set_defaults(written, self.schema)
        self.live = written
        there = set(_leaves(written, self.schema))
        for owned in self.owners.values():
            owned &= there


def write_as_operator(item: Object) -> None:
    """What a read and a full write by KubeRay's operator change: the object passes through its Go types, and gets a finalizer."""
    finalizers = item["metadata"].setdefault("finalizers", [])
    if (own := f"ray.io/{item['kind'].lower()}-finalizer") not in finalizers:
        finalizers.append(own)
    _through_go(item["spec"])


def _through_go(node: Any) -> None:
    if isinstance(node, list):
        for entry in node:
            _through_go(entry)
    if not isinstance(node, dict):
        return
    if "groupName" in node:
        node.setdefault("scaleStrategy", {})
    if "image" in node and "name" in node:
        node.setdefault("resources", {})
    if "spec" in node and "template" not in node:  # a pod template
        node.setdefault("metadata", {})
    for key, value in list(node.items()):
        _through_go(value)
        if key in _QUANTITIES and isinstance(value, dict):
            node[key] = {name: canonical(amount) for name, amount in value.items()}
        elif key in ("sizeLimit", "storage"):
            node[key] = canonical(value)
        empty_text = key != "name" and value == ""
        if key not in _WRITTEN_EMPTY and (value == [] or empty_text or (key in _LEFT_OUT_IF_FALSE and value is False)):
            del node[key]


def _leaves(value: Any, schema: Object, path: Path = ()) -> dict[Path, Any]:
    """Leaf fields with their values. Fields of `apiVersion`, `kind`, `status` and other metadata have no owners."""
    found: dict[Path, Any] = {}
    kind = _list_kind(value, schema)
    if isinstance(value, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        for key, child in value.items():
            inner = _property(schema, key)
            if inner is not None and (path or key in ("metadata", "spec")):
                found |= _leaves(child, inner, (*path, key))
        if not value:
            found[path] = {}
    elif kind == "map":
        for entry in value:
            own = (*path, _identity(entry, schema))
            found |= {own: None, **_leaves(entry, schema["items"], own)}
    elif kind == "set":
        found |= {(*path, ("=", entry)): None for entry in value}
    else:
        found[path] = value
    return found


def _merge(live: Any, config: Any, schema: Object) -> Any:
    kind = _list_kind(config, schema)
    if isinstance(config, dict) and isinstance(live, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        inner = {key: _property(schema, key) or {} for key in config}
        return {**copy.deepcopy(live), **{key: _merge(live.get(key), config[key], inner[key]) for key in config}}
    if kind == "map" and live:
        there = {_identity(entry, schema): entry for entry in live}
        for entry in config:
            own = _identity(entry, schema)
            there[own] = _merge(there.get(own), entry, schema["items"])
        return copy.deepcopy(list(there.values()))
    if kind == "set" and live:
        return [*live, *(entry for entry in config if entry not in live)]
    return copy.deepcopy(config)


def _list_kind(value: Any, schema: Object) -> str:
    return str(schema.get("x-kubernetes-list-type", "atomic")) if isinstance(value, list) else ""


def _property(schema: Object, key: str) -> Object | None:
    found = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else None


def _identity(entry: Object, schema: Object) -> Path:
    properties = schema["items"]["properties"]
    keys = schema["x-kubernetes-list-map-keys"]
    return tuple((key, entry.get(key, properties[key].get("default"))) for key in keys)


def _changed(before: dict[Path, Any], after: dict[Path, Any]) -> set[Path]:
    """Added and modified leaves."""
    missing = object()
    return {path for path, value in after.items() if before.get(path, missing) != value}


def _set_defaults(value: Any, schema: Object) -> None:
    if isinstance(value, list):
        for entry in value:
            _set_defaults(entry, schema.get("items", {}))
    elif isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if "default" in inner and value.get(key) is None:
                value[key] = copy.deepcopy(inner["default"])
        for key, child in value.items():
            _set_defaults(child, _property(schema, key) or {})


def _remove(value: Any, path: Path) -> None:
    *above, last = path
    for step in above:
        inside = [value.get(step)] if isinstance(value, dict) else [e for e in value or () if _is(e, step)]
        value = inside[0] if inside else None
    if isinstance(value, dict):
        value.pop(last, None)
    elif value:
        value[:] = [entry for entry in value if not _is(entry, last)]


def _is(entry: Any, step: Any) -> bool:
    if step[0] == "=":
        return bool(entry == step[1])
    return all(entry.get(key, value) == value for key, value in step)


def _shown(path: Path) -> str:
    text = "".join(f".{step}" if isinstance(step, str) else str(list(step)) for step in path)
    return re.sub(r"[()' ]", "", text)
