"""Security contexts of Pods and containers: users, privileges, profiles, kernel parameters."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.nodes import Node, elements, mapping
from tests.k8s.checker.pods.fields import MAX_INT32, at_least, in_range, one_of, written
from tests.k8s.checker.problem import Findings, rule

ESCALATION = rule("pod/escalation", "drop allowPrivilegeEscalation: false, or the privileges")
PROC_MOUNT = rule("pod/proc-mount", "set hostUsers: false for the Pod, or leave procMount at Default")
PROFILE = rule("pod/profile", "set localhostProfile with type Localhost, and only then: a relative path or a name")
SYSCTL = rule(
    "pod/sysctl", "name each kernel parameter once, and none of a namespace that the Pod shares with its host"
)

_PROFILES = ("RuntimeDefault", "Unconfined", "Localhost")
_MAX_PROFILE_BYTES = 4095

_IPC_SYSCTLS = {"kernel.sem", "kernel.shm", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
_IPC_SYSCTLS |= {"kernel.msg", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni"}
_SLASH_FIRST = str.maketrans("./", "/.")


def pod_security_findings(spec: Node, path: str) -> Findings:
    """In: a Pod's spec. Out: what is wrong with its securityContext."""
    context, at = mapping(spec, "securityContext"), f"{path}.securityContext"
    yield from at_least(context, "fsGroup", 0, at, MAX_INT32)
    for index, group in enumerate(context.get("supplementalGroups") or []):
        yield from in_range(group, 0, f"{at}.supplementalGroups[{index}]", MAX_INT32)
    yield from one_of(context, "fsGroupChangePolicy", ("OnRootMismatch", "Always"), at)
    yield from one_of(context, "supplementalGroupsPolicy", ("Merge", "Strict"), at)
    yield from one_of(context, "seLinuxChangePolicy", ("Recursive", "MountOption"), at)
    yield from _context_findings(context, at)
    yield from _sysctl_findings(spec, at)


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


def _context_findings(context: Node, path: str) -> Findings:
    """What a Pod's and a container's securityContext share."""
    for name in ("runAsUser", "runAsGroup"):
        yield from at_least(context, name, 0, path, MAX_INT32)
    for name in ("seccompProfile", "appArmorProfile"):
        if context.get(name) is not None:
            yield from _profile_findings(mapping(context, name), f"{path}.{name}", file=name == "seccompProfile")


def _profile_findings(profile: Node, path: str, *, file: bool) -> Findings:
    """A profile of seccomp is a `file`, which may even have no name; one of AppArmor is a name."""
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    yield from one_of(profile, "type", _PROFILES, path, required=True)
    if (kind == "Localhost") != (local is not None):
        yield PROFILE.at(path, f"type {kind} and localhostProfile do not fit")
    else:
        grammar = syntax.descending_path if file else _profile_name
        yield from written(PROFILE, profile, "localhostProfile", grammar, path)


def _profile_name(text: str) -> str | None:
    """What is wrong with the name of an AppArmor profile."""
    if not text or text != text.strip():
        return f"{text!r} is empty or has spaces around it"
    size = syntax.byte_count(text)
    return f"{size} bytes, at most {_MAX_PROFILE_BYTES} are allowed" if size > _MAX_PROFILE_BYTES else None


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
