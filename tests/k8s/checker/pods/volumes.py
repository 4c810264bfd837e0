"""Volumes of a Pod: names, one source each, and the files that Kubernetes itself writes into some of them."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import at_least, exactly_one, not_empty, written
from tests.k8s.checker.pods.variables import field_findings, resource_field_findings
from tests.k8s.checker.pods.volume_sources import PATH, source_findings
from tests.k8s.checker.problem import Findings, rule

NAME = rule("pod/volume-name", "name the volume with lower-case letters, digits and '-'")
NAME_TWICE = rule("pod/volume-name-twice", "name each volume of the Pod differently")
SOURCES = rule("pod/volume-sources", "keep one source for each volume, and write volumes of two sources as two")
ITEM_SOURCE = rule("pod/downward-source", "set exactly one of fieldRef and resourceFieldRef")
PROJECTED = rule("pod/projected-source", "project each kind by a source of its own")
CONFLICT = rule("pod/projected-path-twice", "project each file to a path of its own")
EXPIRATION = rule("pod/token-expiration", "let a token live from 600 to 4294967296 seconds")

_PROJECTED = ("secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate")


def volume_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its volumes; one without a source is an emptyDir."""
    names: set[str] = set()
    for place, volume in elements(spec, "volumes", path):
        name = str(volume.get("name", ""))
        yield from written(NAME, volume, "name", syntax.dns_label, place, required=True)
        if name in names:
            yield NAME_TWICE.at(f"{place}.name", f"{name!r} stands in the Pod twice")
        names.add(name)
        yield from exactly_one(SOURCES, volume, sorted(volume.keys() - {"name"}), place, none_is_fine=True)
        yield from source_findings(volume, place)
        yield from _file_findings(volume, place)


def _file_findings(volume: Node, path: str) -> Findings:
    for kind in ("secret", "configMap"):
        yield from _items_findings(mapping(volume, kind), f"{path}.{kind}")
    yield from _downward_findings(mapping(volume, "downwardAPI"), f"{path}.downwardAPI")
    yield from _projected_findings(mapping(volume, "projected"), f"{path}.projected")


def _items_findings(source: Node, path: str) -> Findings:
    yield from at_least(source, "defaultMode", 0, path, 0o777)
    for place, item in elements(source, "items", path):
        yield from at_least(item, "mode", 0, place, 0o777)
        yield from not_empty(item, "key", place)
        yield from _path_findings(item, place)


def _path_findings(item: Node, place: str) -> Findings:
    yield from not_empty(item, "path", place)
    yield from written(PATH, item, "path", _file_path, place)


def _file_path(text: str) -> str | None:
    return syntax.descending_path(text) or (f"{text!r} starts with '..'" if text.startswith("..") else None)


def _downward_findings(source: Node, path: str) -> Findings:
    yield from at_least(source, "defaultMode", 0, path, 0o777)
    for place, item in elements(source, "items", path):
        yield from _path_findings(item, place)
        yield from at_least(item, "mode", 0, place, 0o777)
        yield from exactly_one(ITEM_SOURCE, item, ("fieldRef", "resourceFieldRef"), place)
        if item.get("fieldRef") is not None:
            yield from field_findings(mapping(item, "fieldRef"), f"{place}.fieldRef", env=False)
        if item.get("resourceFieldRef") is not None:
            reference = mapping(item, "resourceFieldRef")
            yield from not_empty(reference, "containerName", f"{place}.resourceFieldRef")
            yield from resource_field_findings(reference, f"{place}.resourceFieldRef")


def _projected_findings(source: Node, path: str) -> Findings:
    yield from at_least(source, "defaultMode", 0, path, 0o777)
    paths: set[str] = set()
    for place, entry in elements(source, "sources", path):
        yield from exactly_one(PROJECTED, entry, _PROJECTED, place, none_is_fine=True)
        for kind in ("secret", "configMap"):
            if entry.get(kind) is not None:
                yield from not_empty(mapping(entry, kind), "name", f"{place}.{kind}")
                yield from _items_findings(mapping(entry, kind), f"{place}.{kind}")
        if entry.get("downwardAPI") is not None:
            yield from _downward_findings(mapping(entry, "downwardAPI"), f"{place}.downwardAPI")
        token = mapping(entry, "serviceAccountToken")
        if token:
            yield from _path_findings(token, f"{place}.serviceAccountToken")
            expires_s = token.get("expirationSeconds")
            if expires_s is not None and not 600 <= expires_s <= 2**32:
                yield EXPIRATION.at(f"{place}.serviceAccountToken.expirationSeconds", f"{expires_s}")
        for kind in ("secret", "configMap", "downwardAPI"):
            for item_place, item in elements(entry, f"{kind}.items", place):
                if item.get("path") in paths:
                    yield CONFLICT.at(f"{item_place}.path", f"{item['path']!r} stands in the volume twice")
                paths.add(str(item.get("path")))
