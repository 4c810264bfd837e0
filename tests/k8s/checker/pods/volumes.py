"""Volumes of a Pod: one source each, and the sources' own fields."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods.claim_templates import claim_template_findings
from tests.k8s.checker.pods.fields import at_least, exactly_one, not_empty, one_of
from tests.k8s.checker.pods.variables import field_findings, resource_field_findings
from tests.k8s.checker.pods.volume_sources import storage_findings
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

NAME = rule("pod/volume-name", "name the volume with lower-case letters, digits and '-'")
NAME_TWICE = rule("pod/volume-name-twice", "name each volume of the Pod differently")
SOURCES = rule("pod/volume-sources", "keep one source for each volume, and write volumes of two sources as two")
PATH = rule("pod/volume-path", "take a path inside the volume, relative and without '..'")
HOST_PATH = rule("pod/host-path", "take an absolute path without '..'")
SIZE = rule("pod/size-limit", "take a size of 0 or more, written as 8Gi is")
ITEM_SOURCE = rule("pod/downward-source", "set exactly one of fieldRef and resourceFieldRef")
PROJECTED = rule("pod/projected-source", "project each kind by a source of its own")
CONFLICT = rule("pod/projected-path-twice", "project each file to a path of its own")
EXPIRATION = rule("pod/token-expiration", "let a token live from 600 to 4294967296 seconds")

_PROJECTED = ("secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate")
_HOST_TYPES = ("DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")


def volume_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its volumes; one without a source is an emptyDir."""
    names: set[str] = set()
    for place, volume in elements(spec, "volumes", path):
        name = str(volume.get("name", ""))
        wrong = syntax.dns_label(name)
        if wrong:
            yield NAME.at(f"{place}.name", wrong)
        if name in names:
            yield NAME_TWICE.at(f"{place}.name", f"{name!r} stands in the Pod twice")
        names.add(name)
        yield from exactly_one(SOURCES, volume, sorted(volume.keys() - {"name"}), place, none_is_fine=True)
        yield from _source_findings(volume, place)


def _source_findings(volume: Node, path: str) -> Findings:
    yield from storage_findings(volume, path)
    yield from _size_findings(mapping(volume, "emptyDir"), f"{path}.emptyDir")
    yield from one_of(mapping(volume, "hostPath"), "type", _HOST_TYPES, f"{path}.hostPath", empty_is_unset=True)
    yield from _place_findings(volume, path)
    for kind in ("secret", "configMap"):
        yield from _items_findings(mapping(volume, kind), f"{path}.{kind}")
    yield from _downward_findings(mapping(volume, "downwardAPI"), f"{path}.downwardAPI")
    yield from _projected_findings(mapping(volume, "projected"), f"{path}.projected")
    if volume.get("ephemeral") is not None:
        yield from claim_template_findings(mapping(volume, "ephemeral"), f"{path}.ephemeral")


def _size_findings(source: Node, path: str) -> Findings:
    if source.get("sizeLimit") is None:
        return
    size = quantity(source["sizeLimit"])
    if size is None or size < 0:
        yield SIZE.at(f"{path}.sizeLimit", f"{source['sizeLimit']}")


def _place_findings(volume: Node, path: str) -> Findings:
    host, share = str(get(volume, "hostPath.path") or ""), str(get(volume, "nfs.path") or "")
    if ".." in host.split("/"):
        yield HOST_PATH.at(f"{path}.hostPath.path", f"{host!r}")
    if share and not share.startswith("/"):
        yield HOST_PATH.at(f"{path}.nfs.path", f"{share!r}")
    wrong = syntax.descending_path(str(get(volume, "gitRepo.directory") or ""))
    if wrong:
        yield PATH.at(f"{path}.gitRepo.directory", wrong)


def _items_findings(source: Node, path: str) -> Findings:
    yield from at_least(source, "defaultMode", 0, path, 0o777)
    for place, item in elements(source, "items", path):
        yield from at_least(item, "mode", 0, place, 0o777)
        yield from not_empty(item, "key", place)
        yield from _path_findings(item, place)


def _path_findings(item: Node, place: str) -> Findings:
    yield from not_empty(item, "path", place)
    text = str(item.get("path", ""))
    wrong = syntax.descending_path(text) or (f"{text!r} starts with '..'" if text.startswith("..") else None)
    if wrong:
        yield PATH.at(f"{place}.path", wrong)


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
