"""Kubernetes' own kinds held against their schemas, strictly: unknown fields, types, required fields, enums.

The schemas are those that the package kubernetes-validate carries; its `validate` would read a megabyte for each object and stop at
the first error.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from functools import cache
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import referencing

from tests.k8s.checker import syntax
from tests.k8s.checker.metadata import metadata_findings
from tests.k8s.checker.nodes import Node, join
from tests.k8s.checker.problem import Findings, Rule
from tests.k8s.checker.structure import ENUM, REQUIRED, TYPE, UNKNOWN
from tests.k8s.checker.syntax import Grammar

KUBERNETES = "1.36.0"
"""The version whose API the manifests are held against."""

# All that these schemas ask for; the one oneOf is "a number or a string".
_BY_KEYWORD: dict[str, Rule] = {
    "additionalProperties": UNKNOWN,
    "type": TYPE,
    "oneOf": TYPE,
    "required": REQUIRED,
    "enum": ENUM,
}
_FOLDER = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
_CLUSTER_WIDE = {
    *("Namespace", "Node", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "StorageClass"),
    *("RuntimeClass", "CSIDriver", "IngressClass", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"),
    *("CustomResourceDefinition", "APIService", "DeviceClass", "ValidatingAdmissionPolicy"),
    "ValidatingAdmissionPolicyBinding",
}


def _path_segment(name: str) -> str | None:
    """Roles and bindings take any name that can stand in a URL: system:node, for one."""
    bad = name in (".", "..") or "/" in name or "%" in name
    return f"{name!r} cannot stand in a URL" if bad else None


_GRAMMARS: dict[str, Grammar] = {
    "Namespace": syntax.dns_label,
    "Service": syntax.dns_1035_label,
    **dict.fromkeys(("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"), _path_segment),
}


@cache
def _validator(api_version: str, kind: str) -> Any:
    # Files are called by the group's first part: rbac.authorization.k8s.io/v1 is rbac-v1.
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    name = f"{kind.lower()}-{short}.json"
    file = _FOLDER / name
    if not re.fullmatch(r"[a-z0-9.-]{1,255}", name) or not file.is_file():
        return None
    schema = json.loads(file.read_text(encoding="utf-8"))
    groups = {(entry["group"], entry["version"]) for entry in schema.get("x-kubernetes-group-version-kind", [])}
    group, _, version = api_version.rpartition("/")
    if (group, version) not in groups:
        return None
    return jsonschema.Draft202012Validator(schema, registry=_definitions() @ referencing.Registry())


@cache
def _definitions() -> referencing.Resource[Any]:
    return referencing.Resource.from_contents(json.loads((_FOLDER / "_definitions.json").read_text(encoding="utf-8")))


def is_core(item: Node) -> bool:
    """Whether Kubernetes itself defines the object's kind, in this version."""
    return _validator(str(item.get("apiVersion")), str(item.get("kind"))) is not None


def schema_findings(item: Node) -> Findings:
    """In: an object of one of Kubernetes' kinds. Out: what its schema and the rules of metadata refuse."""
    kind = str(item.get("kind"))
    grammar = _GRAMMARS.get(kind, syntax.dns_subdomain)
    yield from metadata_findings(item.get("metadata"), namespaced=kind not in _CLUSTER_WIDE, name=grammar)
    for error in _validator(str(item.get("apiVersion")), kind).iter_errors(item):
        path = ""
        for key in error.absolute_path:
            path = join(path, key)
        if path.split(".")[0] != "metadata":
            yield _BY_KEYWORD[error.validator].at(path or kind, error.message)
