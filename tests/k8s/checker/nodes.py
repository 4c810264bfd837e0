"""Reading parsed YAML: objects are plain dicts and lists whose shape an earlier layer has checked, or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]


def join(path: str, key: str | int) -> str:
    """`spec.containers` and `0` give `spec.containers[0]`; keys with dots are put in brackets as well."""
    if isinstance(key, int) or "." in key or "/" in key:
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def get(node: Any, path: str) -> Any:
    """The value at a dotted path, None where any part of it is missing.

    >>> get({"spec": {"ttl": 3}}, "spec.ttl")
    3
    """
    for key in path.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def mapping(node: Any, path: str) -> Node:
    """The mapping at a path, an empty one where there is none."""
    value = get(node, path)
    return value if isinstance(value, Mapping) else {}


def elements(node: Any, path: str, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """The list at a path, as pairs of (path with index, element); `prefix` is the node's own path."""
    value = get(node, path)
    base = f"{prefix}.{path}" if prefix else path
    for index, element in enumerate(value if isinstance(value, list) else []):
        if isinstance(element, Mapping):
            yield f"{base}[{index}]", element


def title(item: Node) -> str:
    """How messages name an object: kind, namespace and name.

    >>> title({"kind": "RayJob", "metadata": {"name": "train", "namespace": "raystill"}})
    'RayJob raystill/train'
    """
    name = get(item, "metadata.name") or get(item, "metadata.generateName") or "without a name"
    namespace = get(item, "metadata.namespace")
    return f"{item.get('kind', 'object')} {namespace + '/' if isinstance(namespace, str) else ''}{name}"
