"""A pod's root folder and volumes, as lines of a shell script that mounts them in its own namespace."""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.k8s.quantities import quantity
from tests.support.k8s.rendering import K8S, ROOT, Object

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")


def image_environment() -> dict[str, str]:
    """The variables that k8s/image/Dockerfile sets."""
    text = (K8S / "image" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"(?m)^ENV (.+)$", text)
    pairs = (word.partition("=") for word in shlex.split(line))
    return {name: value.replace("$PATH", "/usr/local/bin:/usr/bin:/bin") for name, _, value in pairs}


@dataclass(frozen=True)
class Volumes:
    """Replacements on this machine for volumes and images."""

    claims: Mapping[str, Path] = field(default_factory=dict)
    """Name of a PersistentVolumeClaim -> folder of this machine."""
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name -> file -> text."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name -> key -> text."""
    image: Path | None = None
    """Root folder of a built image. None: this machine's system, this checkout and its Python environment."""


def mounts(folder: Path, manifest: Object, volumes: Volumes, hosts: Mapping[str, str]) -> Iterator[str]:
    """Lines that make `root` in the pod's folder.

    Args:
        folder: belongs to this pod; the script starts in it.
        manifest: a Pod whose containers share one user. Volumes of the first container are mounted.
        hosts: entries of /etc/hosts, name -> address.
    """
    spec = manifest["spec"]
    folder.joinpath("root").mkdir()
    _write(folder / "etc", {
        "hosts": "".join(f"{address} {name}\n" for name, address in hosts.items()),
        "resolv.conf": "nameserver 127.0.0.1\n",  # no name server there: queries fail at once
    })  # fmt: skip
    yield from _system(folder, spec["securityContext"]) if volumes.image is None else _image(folder, volumes.image)
    yield "mount --rbind /dev root/dev && mount --rbind /sys root/sys"
    # The memory limit as a container reads it: Ray's object store takes a share of it. Nothing enforces it.
    limit = quantity(spec["containers"][0]["resources"]["limits"]["memory"])
    limits = {"max": int(limit), "current": 0, "stat": "inactive_file 0\nactive_file 0"}
    _write(folder / "limits", {f"memory.{name}": f"{text}\n" for name, text in limits.items()})
    yield "mount --bind limits root/sys/fs/cgroup"
    yield from _volumes(folder, spec, volumes)
    if spec["containers"][0]["securityContext"].get("readOnlyRootFilesystem"):
        yield "mount -o remount,bind,ro root"  # an overlay cannot be reconfigured, its mount can


def _system(folder: Path, context: Object) -> Iterator[str]:
    user, group = context["runAsUser"], context["runAsGroup"]
    _write(folder / "etc", {
        "passwd": f"root:x:0:0::/root:/bin/bash\nray:x:{user}:{group}::/home/ray:/bin/bash\n",
        "group": f"root:x:0:\nray:x:{group}:\n",
    })  # fmt: skip
    yield "mount -t tmpfs -o mode=0755 root root"
    yield "mkdir -p root/proc root/dev root/sys root/run root/opt/raystill && mkdir -m 1777 root/tmp root/var root/var/tmp"
    for path in _SYSTEM:
        if os.path.islink(path):
            yield f"ln -s {shlex.quote(os.readlink(path))} root{path}"
        elif os.path.isdir(path):
            yield _bound(path)
    for path in _outermost(str(ROOT), sys.prefix, sys.base_prefix):
        if not f"{path}/".startswith("/usr/"):
            yield _bound(path)
    corpora = ROOT / "pipelines" / "recipes" / "corpora"
    for name, target in (("bin", os.path.dirname(sys.executable)), ("corpora", str(corpora))):
        yield f"ln -s {shlex.quote(target)} root/opt/raystill/{name}"
    for name in ("hosts", "resolv.conf", "passwd", "group"):
        yield f"[ -L root/etc/{name} ] || mount --bind etc/{name} root/etc/{name}"


def _image(folder: Path, image: Path) -> Iterator[str]:
    for name in ("written", "work"):
        folder.joinpath(name).mkdir()
    layers = f"lowerdir={image},upperdir=written,workdir=work"
    yield f"mount -t overlay -o {shlex.quote(layers)} image root"
    yield "cp etc/hosts etc/resolv.conf root/etc/"


def _volumes(folder: Path, spec: Object, known: Volumes) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for mount in spec["containers"][0].get("volumeMounts", []):
        path = f"root{mount['mountPath']}"
        yield f"mkdir -p {path}"
        volume = volumes[mount["name"]]
        if (empty := volume.get("emptyDir")) and empty.get("medium") == "Memory":
            yield f"mount -t tmpfs -o mode=1777,size={int(quantity(empty['sizeLimit']))} memory {path}"
            continue
        yield f"mount --bind {shlex.quote(str(_source(folder, volume, spec, known, mount.get('subPath', ''))))} {path}"
        if mount.get("readOnly"):
            yield f"mount -o remount,bind,ro {path}"


def _source(folder: Path, volume: Object, spec: Object, known: Volumes, part: str = "") -> Path:
    """The folder of this machine that stands for a volume, or for a part of an empty one."""
    if claim := volume.get("persistentVolumeClaim"):
        return known.claims[str(claim["claimName"])]
    files: Mapping[str, str] = {}
    if config_map := volume.get("configMap"):
        files = known.config_maps[config_map["name"]]
    elif secret := volume.get("secret"):
        name = secret["secretName"]
        files = known.secrets.get(name, {}) if secret.get("optional") else known.secrets[name]
    source: Path = folder / volume["name"] / part
    _write(source, files)
    os.chown(source, -1, spec["securityContext"].get("fsGroup", -1))
    source.chmod(0o2777)
    return source


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        folder.joinpath(name).write_text(text, encoding="utf-8")


def _bound(path: str) -> str:
    quoted = shlex.quote(path)
    return f"mkdir -p root{quoted} && mount --rbind {quoted} root{quoted}"


def _outermost(*paths: str) -> list[str]:
    """The paths that are inside no other path."""
    real = {os.path.realpath(path) for path in paths}
    return sorted(path for path in real if not any(path.startswith(f"{other}/") for other in real))
