"""Security contexts of Pods and containers: users, profiles, kernel parameters, and what belongs to which operating system."""

from __future__ import annotations

from collections.abc import Collection

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, get, mapping
from tests.k8s.checker.pods.fields import MAX_INT32, at_least, one_of
from tests.k8s.checker.pods.variables import object_name_findings
from tests.k8s.checker.problem import Findings, rule

ESCALATION = rule("pod/escalation", "drop allowPrivilegeEscalation: false, or the privileges")
PROC_MOUNT = rule("pod/proc-mount", "set hostUsers: false for the Pod, or leave procMount at Default")
PROFILE = rule("pod/profile", "set localhostProfile with type Localhost, and only then: a relative path or a name")
SYSCTL = rule(
    "pod/sysctl", "name each kernel parameter once, and none of a namespace that the Pod shares with its host"
)
SYSTEM = rule("pod/operating-system", "drop the field, or name the operating system that it belongs to in os.name")
WINDOWS = rule("pod/windows-options", "name a user as USER or DOMAIN\\USER; a credential spec has 1 to 65536 bytes")
HOST_PROCESS = rule("pod/host-process", "set hostProcess for all containers alike, and hostNetwork: true beside it")

_PROFILES = ("RuntimeDefault", "Unconfined", "Localhost")
_MAX_PROFILE_BYTES = 4095
_MAX_CREDENTIAL_BYTES = 64 * 1024

_IPC_SYSCTLS = {"kernel.sem", "kernel.shm", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
_IPC_SYSCTLS |= {"kernel.msg", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni"}
_SLASH_FIRST = str.maketrans("./", "/.")

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


def pod_security_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its securityContext, and with what it shares with its host."""
    context, at = mapping(spec, "securityContext"), f"{path}.securityContext"
    yield from at_least(context, "fsGroup", 0, at, MAX_INT32)
    for index, group in enumerate(context.get("supplementalGroups") or []):
        yield from at_least({"id": group}, "id", 0, f"{at}.supplementalGroups[{index}]", MAX_INT32)
    yield from one_of(context, "fsGroupChangePolicy", ("OnRootMismatch", "Always"), at)
    yield from one_of(context, "supplementalGroupsPolicy", ("Merge", "Strict"), at)
    yield from one_of(context, "seLinuxChangePolicy", ("Recursive", "MountOption"), at)
    yield from _context_findings(context, at)
    yield from _sysctl_findings(spec, at)
    yield from _system_findings(spec, spec, path, _LINUX_POD)
    yield from _system_findings(spec, context, at, _LINUX_POD_CONTEXT)
    yield from _host_process_findings(spec, path)


def container_security_findings(container: Node, path: str, spec: Node) -> Findings:
    """In: a container and its Pod's spec. Out: what is wrong with its securityContext."""
    context, at = mapping(container, "securityContext"), f"{path}.securityContext"
    yield from _context_findings(context, at)
    yield from one_of(context, "procMount", ("Default", "Unmasked"), at)
    if context.get("procMount") == "Unmasked" and spec.get("hostUsers") is not False:
        yield PROC_MOUNT.at(f"{at}.procMount", "Unmasked for users of the host")
    added = mapping(context, "capabilities").get("add") or []
    if context.get("allowPrivilegeEscalation") is False and (
        context.get("privileged") is True or "CAP_SYS_ADMIN" in added
    ):
        what = "privileged" if context.get("privileged") else "CAP_SYS_ADMIN"
        yield ESCALATION.at(f"{at}.allowPrivilegeEscalation", f"false with {what}")
    yield from _system_findings(spec, context, at, _LINUX_CONTAINER_CONTEXT)


def _context_findings(context: Node, path: str) -> Findings:
    """What a Pod's and a container's securityContext share."""
    for name in ("runAsUser", "runAsGroup"):
        yield from at_least(context, name, 0, path, MAX_INT32)
    for name in ("seccompProfile", "appArmorProfile"):
        if context.get(name) is not None:
            yield from _profile_findings(mapping(context, name), f"{path}.{name}", file=name == "seccompProfile")
    yield from _windows_findings(mapping(context, "windowsOptions"), f"{path}.windowsOptions")


def _profile_findings(profile: Node, path: str, *, file: bool) -> Findings:
    """A profile of seccomp is a `file`, which may even have no name; one of AppArmor is a name."""
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    yield from one_of({"type": kind}, "type", _PROFILES, path)
    if (kind == "Localhost") != (local is not None):
        yield PROFILE.at(path, f"type {kind} and localhostProfile do not fit")
    elif local is not None:
        wrong = syntax.descending_path(local) if file else _profile_name(local)
        if wrong:
            yield PROFILE.at(f"{path}.localhostProfile", wrong)


def _profile_name(text: str) -> str | None:
    """What is wrong with the name of an AppArmor profile."""
    if not text or text != text.strip():
        return f"{text!r} is empty or has spaces around it"
    too_long = len(text.encode()) > _MAX_PROFILE_BYTES
    return f"{len(text.encode())} bytes, at most {_MAX_PROFILE_BYTES} are allowed" if too_long else None


def _windows_findings(options: Node, path: str) -> Findings:
    if options.get("gmsaCredentialSpecName") is not None:
        yield from object_name_findings(options, "gmsaCredentialSpecName", path)
    credential, user = options.get("gmsaCredentialSpec"), options.get("runAsUserName")
    if credential is not None and not 1 <= len(credential.encode()) <= _MAX_CREDENTIAL_BYTES:
        yield WINDOWS.at(f"{path}.gmsaCredentialSpec", f"{len(credential.encode())} bytes")
    wrong = syntax.windows_user(user) if user is not None else None
    if wrong:
        yield WINDOWS.at(f"{path}.runAsUserName", wrong)


def _sysctl_findings(spec: Node, path: str) -> Findings:
    seen: set[str] = set()
    for place, entry in elements(mapping(spec, "securityContext"), "sysctls", path):
        name = str(entry.get("name") or "")
        wrong = syntax.sysctl_name(name)
        if not wrong and name in seen:
            wrong = f"{name!r} stands in the Pod twice"
        shared = _shared_namespace(name, spec)
        if not wrong and shared:
            wrong = f"{name!r} with {shared}: true"
        if wrong:
            yield SYSCTL.at(f"{place}.name", wrong)
        seen.add(name)


def _shared_namespace(sysctl: str, spec: Node) -> str | None:
    """The field by which the Pod shares a kernel parameter's namespace with its host."""
    # The separator that comes first stands between the parts: net/ipv4/conf/eno2.100/rp_filter.
    first = next((letter for letter in sysctl if letter in "./"), ".")
    dotted = sysctl.translate(_SLASH_FIRST) if first == "/" else sysctl
    if spec.get("hostNetwork") is True and dotted.startswith("net."):
        return "hostNetwork"
    if spec.get("hostIPC") is True and (dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue.")):
        return "hostIPC"
    return None


def _system_findings(spec: Node, node: Node, path: str, linux: Collection[str]) -> Findings:
    """Fields of `node` that the Pod's operating system has not; without os.name all are fine. `linux`: those of Linux."""
    system = get(spec, "os.name")
    foreign = {"linux": ("windowsOptions",), "windows": linux}.get(str(system), ())
    for key in foreign:
        value = node.get(key)
        # hostPID and hostIPC are plain flags, whose false is unset.
        if value not in (None, []) and not (value is False and key in ("hostPID", "hostIPC")):
            yield SYSTEM.at(f"{path}.{key}", f"set for {system}")


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
