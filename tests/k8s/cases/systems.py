"""What Pod validation refuses because of the Pod's operating system, and of the options of Windows."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import Case, container, in_pod, in_worker, in_worker_pod


def _windows(rule: str | None, options: dict[str, Any]) -> Case:
    return in_worker(rule, "securityContext.windowsOptions", options)


CASES = [
    in_worker_pod("pod/operating-system", os={"name": "windows"}, securityContext={"runAsUser": 1}),
    in_worker_pod("pod/operating-system", os={"name": "windows"}, shareProcessNamespace=False),
    in_worker_pod(
        "pod/operating-system", os={"name": "windows"}, container={"securityContext.readOnlyRootFilesystem": False}
    ),
    in_worker_pod("pod/operating-system", os={"name": "linux"}, container={"securityContext.windowsOptions": {}}),
    _windows("pod/host-process", {"hostProcess": True}),
    in_worker_pod(
        "pod/host-process",
        securityContext={"windowsOptions": {"hostProcess": False}},
        hostNetwork=True,
        container={"securityContext.windowsOptions": {"hostProcess": True}},
    ),
    in_worker_pod(
        "pod/host-process",
        initContainers=[container("init")],
        hostNetwork=True,
        container={"securityContext.windowsOptions": {"hostProcess": True}},
    ),
    _windows("pod/windows-options", {"runAsUserName": "a\\b\\c"}),
    _windows("pod/windows-options", {"runAsUserName": ". "}),
    in_pod("pod/windows-options", "securityContext.windowsOptions", {"gmsaCredentialSpec": ""}),
    _windows("pod/object-name", {"gmsaCredentialSpecName": "A_b"}),
    in_worker_pod(
        None,
        os={"name": "windows"},
        hostPID=False,
        container={"securityContext.windowsOptions": {"runAsUserName": "NT AUTHORITY\\Local service"}},
    ),
    in_worker_pod(None, os={"name": "linux"}, securityContext={"runAsUser": 1000}),
]
