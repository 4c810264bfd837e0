"""Small pods that run a line of bash, to test namespaces without Ray."""

from __future__ import annotations

from pathlib import Path

from tests.support.k8s.pod_files import Volumes
from tests.support.k8s.rendering import Object

USER = 1234


def pod(name: str, script: str, **container: object) -> Object:
    """A pod whose container runs a line of bash."""
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "data", "mountPath": "/data", "readOnly": True}]
    probe = {"httpGet": {"path": "/a", "port": 8080}, "timeoutSeconds": 2}
    env = [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
           {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]  # fmt: skip
    return {
        "metadata": {"name": name, "namespace": "tests", "labels": {}},
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "securityContext": {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER},
            "containers": [{
                "command": ["/bin/bash", "-c", "--"], "args": [script], "env": env, "volumeMounts": mounts, "readinessProbe": probe,
                "resources": {"limits": {"memory": "1Gi"}}, **container,
            }],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
                        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }  # fmt: skip


def volumes(folder: Path) -> Volumes:
    folder.joinpath("data").mkdir(exist_ok=True)
    folder.joinpath("data", "a").write_text("a file of the volume")
    return Volumes(claims={"data": folder / "data"}, secrets={"keys": {"k": "secret"}})
