"""Environment of a container: env and envFrom."""

from __future__ import annotations

import re

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import exactly_one, not_empty
from tests.k8s.checker.problem import Findings, rule

NAME = rule("pod/variable-name", "name the variable in printable ASCII without '='")
VALUE_TWICE = rule("pod/variable-value-twice", "keep value or valueFrom, not both")
SOURCE = rule("pod/variable-source", "set exactly one source")
FIELD = rule("pod/field-path", "take a field that the downward API serves")
KEY = rule("pod/config-key", "write a key with letters, digits, '-', '_' and '.'")
OBJECT_NAME = rule("pod/object-name", "name the object as Kubernetes names objects")

_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_FIELDS = {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"}
_FIELDS |= {"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_RESOURCE = re.compile(r"(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-.+)")


def variable_findings(container: Node, path: str) -> Findings:
    """In: a container. Out: what is wrong with its variables; the same name twice is legal in a Pod (the last one counts)."""
    for place, entry in elements(container, "env", path):
        wrong = syntax.variable_name(str(entry.get("name", "")))
        if wrong:
            yield NAME.at(f"{place}.name", wrong)
        if entry.get("valueFrom") is not None:
            source = mapping(entry, "valueFrom")
            if entry.get("value"):
                yield VALUE_TWICE.at(place, "value and valueFrom are set")
            yield from exactly_one(SOURCE, source, _SOURCES, f"{place}.valueFrom")
            yield from _source_findings(source, f"{place}.valueFrom")
    for place, entry in elements(container, "envFrom", path):
        yield from exactly_one(SOURCE, entry, ("configMapRef", "secretRef"), place)
        if entry.get("prefix") and syntax.variable_name(str(entry["prefix"])):
            yield NAME.at(f"{place}.prefix", str(syntax.variable_name(str(entry["prefix"]))))
        for kind in ("configMapRef", "secretRef"):
            if entry.get(kind) is not None:
                yield from object_name_findings(mapping(entry, kind), "name", f"{place}.{kind}")


def _source_findings(source: Node, path: str) -> Findings:
    if source.get("fieldRef") is not None:
        yield from field_findings(mapping(source, "fieldRef"), f"{path}.fieldRef", env=True)
    if source.get("resourceFieldRef") is not None:
        yield from resource_field_findings(mapping(source, "resourceFieldRef"), f"{path}.resourceFieldRef")
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if source.get(kind) is not None:
            reference = mapping(source, kind)
            yield from not_empty(reference, "name", f"{path}.{kind}")
            yield from not_empty(reference, "key", f"{path}.{kind}")
            wrong = syntax.config_key(str(reference.get("key", ""))) if reference.get("key") else None
            if wrong:
                yield KEY.at(f"{path}.{kind}.key", wrong)


def field_findings(reference: Node, path: str, *, env: bool) -> Findings:
    """A fieldRef; volumes know metadata only."""
    field = str(reference.get("fieldPath", ""))
    keyed = _KEYED.fullmatch(field)
    if keyed:
        wrong = syntax.qualified_name(keyed[2])
        if wrong:
            yield FIELD.at(f"{path}.fieldPath", wrong)
        return
    volume_fields = {"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"}
    if field not in (_FIELDS if env else volume_fields):
        yield FIELD.at(f"{path}.fieldPath", f"{field!r} is no field of the downward API here")


def resource_field_findings(reference: Node, path: str) -> Findings:
    """A resourceFieldRef: a limit or request of a resource that containers have."""
    if not _RESOURCE.fullmatch(str(reference.get("resource", ""))):
        yield FIELD.at(f"{path}.resource", f"{reference.get('resource')!r} is neither limits.NAME nor requests.NAME")


def object_name_findings(node: Node, key: str, path: str) -> Findings:
    """The name of another object."""
    yield from not_empty(node, key, path)
    wrong = syntax.dns_subdomain(str(node[key])) if node.get(key) else None
    if wrong:
        yield OBJECT_NAME.at(f"{path}.{key}", wrong)
