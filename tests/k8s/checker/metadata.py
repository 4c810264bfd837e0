"""ObjectMeta of any object, as apimachinery's ValidateObjectMeta checks it: names, labels, annotations, finalizers, owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get, join, mapping
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.structure import unknown_fields, value_findings
from tests.k8s.checker.syntax import Grammar

NAME = rule("apiserver/name", "name the object with lower-case letters, digits, '-' and '.'")
NAMESPACE = rule("apiserver/namespace", "name the namespace with lower-case letters, digits and '-'")
LABELS = rule(
    "apiserver/label", "write label keys as [DOMAIN/]NAME and values of at most 63 letters, digits, '-', '_', '.'"
)
ANNOTATIONS = rule(
    "apiserver/annotation", "write annotation keys as [DOMAIN/]NAME; all of them together take at most 256 KiB"
)
FINALIZERS = rule(
    "apiserver/finalizer", "write a finalizer as DOMAIN/NAME, and keep one of orphan and foregroundDeletion"
)
OWNERS = rule(
    "apiserver/owner",
    "give every owner apiVersion, kind, name and uid; take no Event as owner; let at most one have controller: true",
)

_MAX_ANNOTATION_BYTES = 256 * 1024
_TEXT: Node = {"type": "string", "nullable": True}
_TEXTS: Node = {"type": "object", "nullable": True, "additionalProperties": _TEXT}
_OWNER: Node = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("apiVersion", "kind", "name", "uid"), _TEXT),
        **{key: {"type": "boolean", "nullable": True} for key in ("controller", "blockOwnerDeletion")},
    },
}
OBJECT_META: Node = {
    "type": "object",
    "nullable": True,
    "properties": {
        **dict.fromkeys(("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion"), _TEXT),
        **{key: {"type": "integer", "nullable": True} for key in ("generation", "deletionGracePeriodSeconds")},
        **{key: {**_TEXT, "format": "date-time"} for key in ("creationTimestamp", "deletionTimestamp")},
        **dict.fromkeys(("labels", "annotations"), _TEXTS),
        "finalizers": {"type": "array", "nullable": True, "items": _TEXT},
        "ownerReferences": {"type": "array", "nullable": True, "items": _OWNER},
        "managedFields": {"type": "array", "nullable": True, "items": {}},
    },
}


def metadata_findings(metadata: Any, *, namespaced: bool = True, name: Grammar = syntax.dns_subdomain) -> Findings:
    """What the API server says about `metadata`; `name` is the grammar of the kind's names."""
    shape = [*unknown_fields(metadata, OBJECT_META, "metadata"), *value_findings(metadata, OBJECT_META, "metadata")]
    if shape or not isinstance(metadata, Mapping):
        yield from shape or [NAME.at("metadata.name", "required, and not set")]
        return
    yield from _name_findings(metadata, namespaced, name)
    yield from label_findings(metadata, "metadata")
    yield from annotation_findings(metadata, "metadata")
    yield from finalizer_findings(metadata, "metadata")
    yield from _owner_findings(metadata)


def _owner_findings(metadata: Node) -> Findings:
    owners = list(elements(metadata, "ownerReferences", "metadata"))
    for path, owner in owners:
        missing = [key for key in ("apiVersion", "kind", "name", "uid") if not owner.get(key)]
        if missing:
            yield OWNERS.at(path, f"without {', '.join(missing)}")
            continue
        group, _, version = owner["apiVersion"].rpartition("/")
        if not version or "/" in group:
            yield OWNERS.at(f"{path}.apiVersion", f"{owner['apiVersion']!r} is neither VERSION nor GROUP/VERSION")
        if (group, version, owner["kind"]) == ("", "v1", "Event"):
            yield OWNERS.at(path, "an Event owns nothing")
    if sum(owner.get("controller") is True for _, owner in owners) > 1:
        yield OWNERS.at("metadata.ownerReferences", "more than one controller")


def _name_findings(metadata: Node, namespaced: bool, grammar: Grammar) -> Findings:
    name, prefix, namespace = metadata.get("name"), metadata.get("generateName"), metadata.get("namespace")
    if not name and not prefix:
        yield NAME.at("metadata.name", "required, and not set")
    for key, text in (("name", name), ("generateName", syntax.masked_dash(prefix or ""))):
        wrong = grammar(text) if text else None
        if wrong:
            yield NAME.at(f"metadata.{key}", wrong)
    # The server drops that of an object that belongs to the whole cluster.
    if namespace and namespaced and syntax.dns_label(namespace):
        yield NAMESPACE.at("metadata.namespace", str(syntax.dns_label(namespace)))


def label_findings(holder: Any, path: str) -> Findings:
    """Labels of an object's or template's metadata."""
    for key, value in mapping(holder, "labels").items():
        for wrong in (syntax.qualified_name(str(key)), syntax.label_value(str(value or ""))):
            if wrong:
                yield LABELS.at(join(join(path, "labels"), str(key)), wrong)


def annotation_findings(holder: Any, path: str) -> Findings:
    """Annotations: keys are qualified names in any case, values are free."""
    annotations = get(holder, "annotations") or {}
    for key in annotations:
        wrong = syntax.qualified_name(str(key).lower())
        if wrong:
            yield ANNOTATIONS.at(join(join(path, "annotations"), str(key)), wrong)
    size = sum(syntax.byte_count(str(text)) for pair in annotations.items() for text in pair if text)
    if size > _MAX_ANNOTATION_BYTES:
        yield ANNOTATIONS.at(join(path, "annotations"), f"{size} bytes, at most {_MAX_ANNOTATION_BYTES} are allowed")


def finalizer_findings(holder: Any, path: str) -> Findings:
    """Finalizers of an object's or template's metadata."""
    finalizers = get(holder, "finalizers") or []
    for index, finalizer in enumerate(finalizers):
        wrong = syntax.qualified_name(finalizer or "")
        if wrong:
            yield FINALIZERS.at(f"{join(path, 'finalizers')}[{index}]", wrong)
    if {"orphan", "foregroundDeletion"} <= set(finalizers):
        yield FINALIZERS.at(join(path, "finalizers"), "orphan and foregroundDeletion exclude each other")
