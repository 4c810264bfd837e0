"""Environment of a container: env and envFrom."""

from __future__ import annotations

import re

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import exactly_one, not_empty, object_name_findings, one_of, written
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

NAME = rule("pod/variable-name", "name the variable in printable ASCII without '='")
VALUE_TWICE = rule("pod/variable-value-twice", "keep value or valueFrom, not both")
SOURCE = rule("pod/variable-source", "set exactly one source")
FIELD = rule("pod/field-path", "take a field that the downward API serves")
DIVISOR = rule("pod/divisor", "divide cpu by 1 or 1m, and bytes by 1, by 1k to 1E or by 1Ki to 1Ei")
FILE = rule("pod/variable-file", "name an emptyDir of the Pod, a path in it without '..', and a variable of the file")
KEY = rule("pod/config-key", "write a key with letters, digits, '-', '_' and '.'")

_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_FIELDS = {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"}
_FIELDS |= {"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
# What spec.nodeName was called before v1; the server still knows it.
_FIELDS |= {"spec.host"}
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_RESOURCE = re.compile(r"(?:limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-.*)")
_CPU_DIVISORS = {quantity(text) for text in ("1", "1m")}
_BYTE_DIVISORS = {quantity(f"1{unit}") for unit in ("", *"kMGTPE", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")}


def variable_findings(container: Node, path: str, spec: Node) -> Findings:
    """In: a container and its Pod's spec. Out: what is wrong with its variables.

    The same name twice is legal in a Pod (the last one counts).
    """
    for place, entry in elements(container, "env", path):
        yield from written(NAME, entry, "name", syntax.variable_name, place, required=True)
        if entry.get("valueFrom") is not None:
            source = mapping(entry, "valueFrom")
            if entry.get("value"):
                yield VALUE_TWICE.at(place, "value and valueFrom are set")
            yield from exactly_one(SOURCE, source, _SOURCES, f"{place}.valueFrom")
            yield from _source_findings(source, f"{place}.valueFrom")
            if source.get("fileKeyRef") is not None:
                yield from _file_findings(mapping(source, "fileKeyRef"), f"{place}.valueFrom.fileKeyRef", spec)
    for place, entry in elements(container, "envFrom", path):
        yield from exactly_one(SOURCE, entry, ("configMapRef", "secretRef"), place)
        yield from written(NAME, entry, "prefix", syntax.variable_name, place, empty_is_unset=True)
        for kind in ("configMapRef", "secretRef"):
            if entry.get(kind) is not None:
                yield from object_name_findings(mapping(entry, kind), "name", f"{place}.{kind}", prefix=True)


def _source_findings(source: Node, path: str) -> Findings:
    if source.get("fieldRef") is not None:
        yield from field_findings(mapping(source, "fieldRef"), f"{path}.fieldRef", env=True)
    if source.get("resourceFieldRef") is not None:
        yield from resource_field_findings(mapping(source, "resourceFieldRef"), f"{path}.resourceFieldRef")
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if source.get(kind) is not None:
            reference = mapping(source, kind)
            yield from object_name_findings(reference, "name", f"{path}.{kind}")
            yield from not_empty(reference, "key", f"{path}.{kind}")
            yield from written(KEY, reference, "key", syntax.config_key, f"{path}.{kind}", empty_is_unset=True)


def _file_findings(reference: Node, path: str, spec: Node) -> Findings:
    yield from written(FILE, reference, "key", syntax.variable_name, path, required=True)
    file = str(reference.get("path", ""))
    if not file or ".." in file.split("/"):
        yield FILE.at(f"{path}.path", f"{file!r}")
    # A volume without a source is an emptyDir.
    sources = {volume.get("name"): volume.keys() - {"name"} for _, volume in elements(spec, "volumes")}
    if sources.get(reference.get("volumeName")) not in (set(), {"emptyDir"}):
        yield FILE.at(f"{path}.volumeName", f"the Pod has no emptyDir {reference.get('volumeName')!r}")


def field_findings(reference: Node, path: str, *, env: bool) -> Findings:
    """A fieldRef; volumes know metadata only."""
    yield from one_of(reference, "apiVersion", ("v1",), path, empty_is_unset=True)
    field = str(reference.get("fieldPath", ""))
    keyed = _KEYED.fullmatch(field)
    if keyed:
        # Keys of annotations are checked in lower case, here as in metadata.
        wrong = syntax.qualified_name(keyed[2].lower() if keyed[1] == "annotations" else keyed[2])
        if wrong:
            yield FIELD.at(f"{path}.fieldPath", wrong)
        return
    volume_fields = {"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"}
    if field not in (_FIELDS if env else volume_fields):
        yield FIELD.at(f"{path}.fieldPath", f"{field!r} is no field of the downward API here")


def resource_field_findings(reference: Node, path: str) -> Findings:
    """A resourceFieldRef: a limit or request of a resource that containers have, and what it is divided by."""
    resource = _RESOURCE.fullmatch(str(reference.get("resource", "")))
    divisor = quantity(reference.get("divisor"))
    if not resource:
        yield FIELD.at(f"{path}.resource", f"{reference.get('resource')!r} is neither limits.NAME nor requests.NAME")
    elif divisor and divisor not in (_CPU_DIVISORS if resource[1] == "cpu" else _BYTE_DIVISORS):
        yield DIVISOR.at(f"{path}.divisor", f"{reference['divisor']}")
