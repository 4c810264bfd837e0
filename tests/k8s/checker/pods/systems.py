"""Operating systems: fields that belong to one of them, options of Windows, containers that are processes of a Windows host."""

from __future__ import annotations

from collections.abc import Collection

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods.fields import object_name_findings, one_of, written
from tests.k8s.checker.problem import Findings, rule

SYSTEM = rule("pod/operating-system", "drop the field, or name the operating system that it belongs to in os.name")
WINDOWS = rule("pod/windows-options", "name a user as USER or DOMAIN\\USER; a credential spec has 1 to 65536 bytes")
HOST_PROCESS = rule("pod/host-process", "set hostProcess for all containers alike, and hostNetwork: true beside it")

_MAX_CREDENTIAL_BYTES = 64 * 1024

# What Linux has and Windows has not: fields of a Pod, of any securityContext, of a Pod's, of a container's.
_LINUX_POD = ("hostUsers", "hostPID", "hostIPC", "shareProcessNamespace", "resources")
_LINUX_ANY = ("appArmorProfile", "seLinuxOptions", "seccompProfile", "runAsUser", "runAsGroup")
_LINUX_POD_CONTEXT = (
    *_LINUX_ANY,
    *("fsGroup", "fsGroupChangePolicy", "sysctls", "supplementalGroups", "supplementalGroupsPolicy"),
    "seLinuxChangePolicy",
)
_LINUX_CONTAINER_CONTEXT = (
    *_LINUX_ANY,
    *("capabilities", "readOnlyRootFilesystem", "privileged", "allowPrivilegeEscalation", "procMount"),
)


def pod_system_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what its operating system has not, wrong options of Windows, and processes of the host."""
    context, at = mapping(spec, "securityContext"), f"{path}.securityContext"
    yield from one_of(mapping(spec, "os"), "name", ("linux", "windows"), f"{path}.os")
    yield from _foreign_findings(spec, spec, path, _LINUX_POD)
    yield from _foreign_findings(spec, context, at, _LINUX_POD_CONTEXT)
    yield from _windows_findings(mapping(context, "windowsOptions"), f"{at}.windowsOptions")
    yield from _host_process_findings(spec, path)


def container_system_findings(container: Node, path: str, spec: Node) -> Findings:
    """In: a container and its Pod's spec. Out: what the Pod's operating system has not, and wrong options of Windows."""
    context, at = mapping(container, "securityContext"), f"{path}.securityContext"
    yield from _foreign_findings(spec, context, at, _LINUX_CONTAINER_CONTEXT)
    yield from _windows_findings(mapping(context, "windowsOptions"), f"{at}.windowsOptions")


def _foreign_findings(spec: Node, node: Node, path: str, linux: Collection[str]) -> Findings:
    """Fields of `node` that the Pod's operating system has not; without os.name all are fine. `linux`: those of Linux."""
    system = get(spec, "os.name")
    foreign = {"linux": ("windowsOptions",), "windows": linux}.get(str(system), ())
    for key in foreign:
        value = node.get(key)
        # hostPID and hostIPC are plain flags, whose false is unset.
        if value not in (None, []) and not (value is False and key in ("hostPID", "hostIPC")):
            yield SYSTEM.at(f"{path}.{key}", f"set for {system}")


def _windows_findings(options: Node, path: str) -> Findings:
    if options.get("gmsaCredentialSpecName") is not None:
        yield from object_name_findings(options, "gmsaCredentialSpecName", path)
    yield from written(WINDOWS, options, "gmsaCredentialSpec", _credential_spec, path)
    yield from written(WINDOWS, options, "runAsUserName", syntax.windows_user, path)


def _credential_spec(text: str) -> str | None:
    size = syntax.byte_count(text)
    return None if 1 <= size <= _MAX_CREDENTIAL_BYTES else f"{size} bytes"


def _host_process_findings(spec: Node, path: str) -> Findings:
    """Windows containers that are processes of their host."""
    whole = get(spec, "securityContext.windowsOptions.hostProcess")
    count = count_on_host = 0
    for kind in ("initContainers", "containers"):
        for place, container in elements(spec, kind, path):
            own = get(container, "securityContext.windowsOptions.hostProcess")
            if None not in (whole, own) and whole != own:
                yield HOST_PROCESS.at(
                    f"{place}.securityContext.windowsOptions.hostProcess", f"{own}, and {whole} in the Pod"
                )
            count += 1
            count_on_host += (whole if own is None else own) is True
    if count_on_host and count_on_host != count:
        yield HOST_PROCESS.at(path, f"{count_on_host} of {count} containers are processes of the host")
    if count_on_host and spec.get("hostNetwork") is not True:
        yield HOST_PROCESS.at(f"{path}.hostNetwork", "not true, and containers are processes of the host")
