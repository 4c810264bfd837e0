"""Volume sources, kind by kind: fields that may not be empty, and what else a kind of storage asks for."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, mapping
from tests.k8s.checker.pods.claim_templates import claim_template_findings
from tests.k8s.checker.pods.fields import EMPTY, at_least, not_empty, object_name_findings, one_of, written
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

SOURCE = rule("pod/volume-source", "fill in the source's fields as its kind of storage wants them")
PATH = rule("pod/volume-path", "take a path inside the volume, relative and without '..'")
HOST_PATH = rule("pod/host-path", "take an absolute path without '..'")
SIZE = rule("pod/size-limit", "take a size of 0 or more, written as 8Gi is")

# Texts and lists that may not be empty; most of them the schemas require, empty or not.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "awsElasticBlockStore": ("volumeID",),
    "azureDisk": ("diskName", "diskURI"),
    "azureFile": ("secretName", "shareName"),
    "cephfs": ("monitors",),
    "cinder": ("volumeID",),
    "configMap": ("name",),
    "csi": ("driver",),
    "emptyDir": (),
    "ephemeral": (),
    "fc": (),
    "flexVolume": ("driver",),
    "flocker": (),
    "gcePersistentDisk": ("pdName",),
    "gitRepo": ("repository",),
    "glusterfs": ("endpoints", "path"),
    "hostPath": ("path",),
    "image": ("reference",),
    "iscsi": ("targetPortal", "iqn"),
    "nfs": ("server", "path"),
    "persistentVolumeClaim": ("claimName",),
    "photonPersistentDisk": ("pdID",),
    "portworxVolume": ("volumeID",),
    "quobyte": ("registry", "volume"),
    "rbd": ("monitors", "image"),
    "scaleIO": ("gateway", "system", "volumeName"),
    "secret": ("secretName",),
    "storageos": ("volumeName",),
    "vsphereVolume": ("volumePath",),
}
_INITIATOR = re.compile(
    r"iqn\.\d{4}-\d{2}\.[A-Za-z0-9.-]+:[^,;*&$|\s]+|eui.[A-Za-z0-9]{16}|naa.[A-Za-z0-9]{32}", re.ASCII
)
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*):[^:\[\]]*")
_HOST_TYPES = ("DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
_MAX_DRIVER_NAME = 63
_MAX_TENANT = 64


def source_findings(volume: Node, path: str) -> Findings:
    """In: a volume. Out: what its source needs and lacks, and values that this kind of storage does not take."""
    for kind, fields in _REQUIRED.items():
        if volume.get(kind) is None:
            continue
        source, place = mapping(volume, kind), f"{path}.{kind}"
        for field in fields:
            if not source.get(field):
                yield EMPTY.at(f"{place}.{field}", "empty")
        if kind in _OWN_RULES:
            yield from _OWN_RULES[kind](source, place)


def _partition_findings(source: Node, path: str) -> Findings:
    yield from at_least(source, "partition", 0, path, 255)


def _azure_disk_findings(source: Node, path: str) -> Findings:
    yield from one_of(source, "cachingMode", ("None", "ReadOnly", "ReadWrite"), path)
    yield from one_of(source, "kind", ("Shared", "Dedicated", "Managed"), path)
    start = "/subscriptions/" if source.get("kind") == "Managed" else "https://"
    uri = source.get("diskURI")
    if uri and not uri.startswith(start):
        yield SOURCE.at(f"{path}.diskURI", f"{uri!r} does not start with {start}")


def _secret_findings(source: Node, path: str) -> Findings:
    if source.get("secretRef") is not None:
        yield from not_empty(mapping(source, "secretRef"), "name", f"{path}.secretRef")


def _csi_findings(source: Node, path: str) -> Findings:
    yield from written(SOURCE, source, "driver", _driver_name, path, empty_is_unset=True)
    if source.get("nodePublishSecretRef") is not None:
        yield from object_name_findings(mapping(source, "nodePublishSecretRef"), "name", f"{path}.nodePublishSecretRef")


def _driver_name(text: str) -> str | None:
    if len(text) > _MAX_DRIVER_NAME:
        return f"{text!r} has {len(text)} characters, at most {_MAX_DRIVER_NAME} are allowed"
    return syntax.dns_subdomain(text.lower())


def _empty_dir_findings(source: Node, path: str) -> Findings:
    limit = source.get("sizeLimit")
    size = quantity(limit)
    if limit is not None and (size is None or size < 0):
        yield SIZE.at(f"{path}.sizeLimit", f"{limit}")


def _fibre_channel_findings(source: Node, path: str) -> Findings:
    names = source.get("targetWWNs")
    if bool(names) == bool(source.get("wwids")):
        yield SOURCE.at(f"{path}.targetWWNs", f"{'set together with' if names else 'as empty as'} wwids")
    if names and source.get("lun") is None:
        yield SOURCE.at(f"{path}.lun", "not set beside targetWWNs")
    elif names:
        yield from at_least(source, "lun", 0, path, 255)


def _flex_findings(source: Node, path: str) -> Findings:
    for option in mapping(source, "options"):
        domain = f".{str(option).partition('/')[0].lower()}"
        if domain.endswith((".kubernetes.io", ".k8s.io")):
            yield SOURCE.at(f"{path}.options[{option}]", "belongs to Kubernetes")


def _flocker_findings(source: Node, path: str) -> Findings:
    name = str(source.get("datasetName") or "")
    if bool(name) == bool(source.get("datasetUUID")):
        yield SOURCE.at(path, "both or neither of datasetName and datasetUUID are set")
    if "/" in name:
        yield SOURCE.at(f"{path}.datasetName", f"{name!r} has a '/'")


def _git_findings(source: Node, path: str) -> Findings:
    yield from written(PATH, source, "directory", syntax.descending_path, path)


def _host_path_findings(source: Node, path: str) -> Findings:
    yield from one_of(source, "type", _HOST_TYPES, path, empty_is_unset=True)
    if ".." in str(source.get("path") or "").split("/"):
        yield HOST_PATH.at(f"{path}.path", f"{source['path']!r}")


def _iscsi_findings(source: Node, path: str) -> Findings:
    yield from written(SOURCE, source, "iqn", _initiator_name, path, empty_is_unset=True)
    yield from written(SOURCE, source, "initiatorName", _initiator_name, path)
    yield from at_least(source, "lun", 0, path, 255)
    if (source.get("chapAuthDiscovery") or source.get("chapAuthSession")) and source.get("secretRef") is None:
        yield SOURCE.at(f"{path}.secretRef", "not set beside chapAuthDiscovery or chapAuthSession")


def _initiator_name(text: str) -> str | None:
    return None if _INITIATOR.fullmatch(text) else f"{text!r} is no name that starts with iqn, eui or naa"


def _network_file_findings(source: Node, path: str) -> Findings:
    share = str(source.get("path") or "")
    if share and not share.startswith("/"):
        yield HOST_PATH.at(f"{path}.path", f"{share!r}")


def _quobyte_findings(source: Node, path: str) -> Findings:
    registry, tenant = str(source.get("registry") or ""), str(source.get("tenant") or "")
    if registry and not all(_HOST_AND_PORT.fullmatch(pair) for pair in registry.split(",")):
        yield SOURCE.at(f"{path}.registry", f"{registry!r} is not HOST:PORT, or several with commas between")
    if len(tenant) > _MAX_TENANT:
        yield SOURCE.at(f"{path}.tenant", f"{len(tenant)} characters, at most {_MAX_TENANT} are allowed")


def _storage_os_findings(source: Node, path: str) -> Findings:
    for key in ("volumeName", "volumeNamespace"):
        yield from written(SOURCE, source, key, syntax.dns_label, path, empty_is_unset=True)
    yield from _secret_findings(source, path)


def _image_findings(source: Node, path: str) -> Findings:
    yield from one_of(source, "pullPolicy", ("Always", "IfNotPresent", "Never"), path, empty_is_unset=True)


_OWN_RULES: dict[str, Callable[[Node, str], Findings]] = {
    "awsElasticBlockStore": _partition_findings,
    "azureDisk": _azure_disk_findings,
    "cinder": _secret_findings,
    "csi": _csi_findings,
    "emptyDir": _empty_dir_findings,
    "ephemeral": claim_template_findings,
    "fc": _fibre_channel_findings,
    "flexVolume": _flex_findings,
    "flocker": _flocker_findings,
    "gcePersistentDisk": _partition_findings,
    "gitRepo": _git_findings,
    "hostPath": _host_path_findings,
    "image": _image_findings,
    "iscsi": _iscsi_findings,
    "nfs": _network_file_findings,
    "quobyte": _quobyte_findings,
    "storageos": _storage_os_findings,
}
