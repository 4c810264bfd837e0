"""Mounts of a container: each belongs to a volume of the Pod and has a place of its own."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get
from tests.k8s.checker.pods.fields import not_empty, one_of, written
from tests.k8s.checker.problem import Findings, rule

NO_VOLUME = rule("pod/mount-without-volume", "add a volume of this name to the Pod, or correct the mount's name")
TWICE = rule("pod/mount-path-twice", "mount one volume at one path")
SUB_PATH = rule("pod/sub-path", "keep one of subPath and subPathExpr, relative and without '..'")
PROPAGATION = rule("pod/mount-propagation", "drop Bidirectional, or make the container privileged")
READ_ONLY = rule("pod/recursive-read-only", "set readOnly: true beside recursiveReadOnly, and no propagation")
DEVICE = rule(
    "pod/volume-device",
    "use volumeDevices for claims of block volumes, each once and at a path of its own without '..'",
)


def mount_findings(container: Node, path: str, spec: Node) -> Findings:
    """In: a container and its Pod's spec. Out: what is wrong with volumeMounts and volumeDevices."""
    volumes = {str(volume.get("name")): volume for _, volume in elements(spec, "volumes")}
    places: set[str] = set()
    for place, mount in elements(container, "volumeMounts", path):
        name, mounted = str(mount.get("name", "")), str(mount.get("mountPath", ""))
        yield from not_empty(mount, "mountPath", place)
        if name not in volumes:
            yield NO_VOLUME.at(f"{place}.name", f"the Pod has no volume {name!r}")
        if mounted in places:
            yield TWICE.at(f"{place}.mountPath", f"{mounted} stands in the container twice")
        places.add(mounted)
        yield from _sub_path_findings(mount, place)
        yield from one_of(mount, "mountPropagation", ("None", "HostToContainer", "Bidirectional"), place)
        if (
            mount.get("mountPropagation") == "Bidirectional"
            and get(container, "securityContext.privileged") is not True
        ):
            yield PROPAGATION.at(f"{place}.mountPropagation", "Bidirectional without privileges")
        yield from one_of(mount, "recursiveReadOnly", ("Disabled", "IfPossible", "Enabled"), place)
        if mount.get("recursiveReadOnly") in ("IfPossible", "Enabled") and (
            mount.get("readOnly") is not True or mount.get("mountPropagation") not in (None, "None")
        ):
            yield READ_ONLY.at(f"{place}.recursiveReadOnly", str(mount["recursiveReadOnly"]))
    yield from _device_findings(container, path, volumes)


def _device_findings(container: Node, path: str, volumes: dict[str, Node]) -> Findings:
    mounts = list(elements(container, "volumeMounts", path))
    names = {mount.get("name") for _, mount in mounts}
    places = {mount.get("mountPath") for _, mount in mounts if mount.get("mountPath")}
    for place, device in elements(container, "volumeDevices", path):
        name, device_path = str(device.get("name", "")), str(device.get("devicePath", ""))
        if name not in volumes:
            yield NO_VOLUME.at(f"{place}.name", f"the Pod has no volume {name!r}")
        elif volumes[name].get("persistentVolumeClaim") is None and volumes[name].get("ephemeral") is None:
            yield DEVICE.at(f"{place}.name", f"{name!r} is no claim")
        elif name in names:
            yield DEVICE.at(f"{place}.name", f"{name!r} is mounted, or a device, as well")
        yield from not_empty(device, "devicePath", place)
        if device_path in places:
            yield DEVICE.at(f"{place}.devicePath", f"{device_path} is another volume's place as well")
        if ".." in device_path.split("/"):
            yield DEVICE.at(f"{place}.devicePath", f"{device_path!r}")
        names.add(name)
        places.add(device_path)


def _sub_path_findings(mount: Node, place: str) -> Findings:
    if mount.get("subPath") and mount.get("subPathExpr"):
        yield SUB_PATH.at(place, "subPath and subPathExpr are set together")
    for key in ("subPath", "subPathExpr"):
        yield from written(SUB_PATH, mount, key, syntax.descending_path, place)
