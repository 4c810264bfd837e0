"""What Pod validation refuses of security contexts: users, privileges, profiles, kernel parameters."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import Case, in_pod, in_worker, in_worker_pod

_USER = {"runAsNonRoot": True}
_SOMAXCONN = {"name": "net.core.somaxconn", "value": "1024"}


def _in_context(rule: str | None, field: str, value: Any) -> Case:
    return in_worker(rule, f"securityContext.{field}", value)


def _in_pod_context(rule: str | None, field: str, value: Any) -> Case:
    return in_pod(rule, f"securityContext.{field}", value)


_SECURITY = [
    in_worker("pod/escalation", "securityContext", {**_USER, "allowPrivilegeEscalation": False, "privileged": True}),
    _in_context("pod/minimum", "runAsUser", -1),
    _in_pod_context("pod/minimum", "supplementalGroups", [-1]),
    _in_context("pod/proc-mount", "procMount", "Unmasked"),
    _in_context("pod/value", "procMount", ""),
    _in_pod_context("pod/value", "fsGroupChangePolicy", ""),
    _in_pod_context("pod/value", "supplementalGroupsPolicy", "strict"),
    _in_pod_context("pod/value", "seLinuxChangePolicy", "Mount"),
    in_worker_pod(None, hostUsers=False, container={"securityContext.procMount": "Unmasked"}),
]

_PROFILES = [
    _in_context("pod/value", "seccompProfile", {"type": ""}),
    _in_pod_context("pod/value", "appArmorProfile", {"type": ""}),
    _in_context("pod/profile", "seccompProfile", {"type": "Localhost"}),
    _in_context("pod/profile", "seccompProfile", {"type": "RuntimeDefault", "localhostProfile": ""}),
    _in_context("pod/profile", "seccompProfile", {"type": "Localhost", "localhostProfile": "/abs"}),
    _in_pod_context("pod/profile", "seccompProfile", {"type": "Localhost", "localhostProfile": "../a"}),
    _in_context("pod/profile", "appArmorProfile", {"type": "Localhost", "localhostProfile": ""}),
    _in_context("pod/profile", "appArmorProfile", {"type": "Localhost", "localhostProfile": " a"}),
    _in_context("pod/profile", "appArmorProfile", {"type": "Localhost", "localhostProfile": "a" * 4096}),
    _in_context(None, "seccompProfile", {"type": "Localhost", "localhostProfile": ""}),
    _in_context(None, "appArmorProfile", {"type": "Localhost", "localhostProfile": "a profile"}),
]

_SYSCTLS = [
    _in_pod_context("pod/sysctl", "sysctls", [{"name": "a b", "value": "1"}]),
    _in_pod_context("pod/sysctl", "sysctls", [{"name": "a" * 254, "value": "1"}]),
    _in_pod_context("pod/sysctl", "sysctls", [_SOMAXCONN, _SOMAXCONN]),
    in_worker_pod("pod/sysctl", hostNetwork=True, securityContext={"sysctls": [_SOMAXCONN]}),
    in_worker_pod(
        "pod/sysctl",
        hostNetwork=True,
        securityContext={"sysctls": [{"name": "net/ipv4/conf/eno2.100/rp_filter", "value": "1"}]},
    ),
    in_worker_pod("pod/sysctl", hostIPC=True, securityContext={"sysctls": [{"name": "kernel.shmmax", "value": "1"}]}),
    _in_pod_context(None, "sysctls", [_SOMAXCONN, {"name": "kernel/shm_rmid_forced", "value": "1"}]),
]

CASES = [*_SECURITY, *_PROFILES, *_SYSCTLS]
