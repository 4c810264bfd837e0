"""What Pod validation refuses of a container's variables."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import Case, in_worker


def _variable(rule: str | None, **source: dict[str, Any]) -> Case:
    return in_worker(rule, "env", [{"name": "A", "valueFrom": source}])


CASES = [
    in_worker("pod/variable-name", "env", [{"name": "A=B", "value": "1"}]),
    in_worker("pod/variable-name", "env", [{"name": "", "value": "1"}]),
    in_worker(
        "pod/variable-value-twice",
        "env",
        [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    ),
    in_worker("pod/variable-source", "env", [{"name": "A", "valueFrom": {}}]),
    in_worker("pod/variable-source", "envFrom", [{"prefix": "A_"}]),
    in_worker("pod/field-path", "env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.name"}}}]),
    in_worker("pod/field-path", "env", [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "memory"}}}]),
    in_worker(
        "pod/config-key",
        "env",
        [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "a/b", "optional": True}}}],
    ),
    in_worker("pod/empty", "env", [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "a", "optional": True}}}]),
    in_worker("pod/object-name", "envFrom", [{"secretRef": {"name": "A_b", "optional": True}}]),
    _variable("pod/object-name", secretKeyRef={"name": "My_Secret", "key": "a", "optional": True}),
    _variable("pod/object-name", configMapKeyRef={"name": "a-", "key": "a", "optional": True}),
    _variable("pod/field-path", fieldRef={"fieldPath": "metadata.labels['A/b']"}),
    _variable("pod/value", fieldRef={"apiVersion": "v2", "fieldPath": "metadata.name"}),
    _variable("pod/divisor", resourceFieldRef={"resource": "limits.memory", "divisor": "5Mi"}),
    _variable("pod/divisor", resourceFieldRef={"resource": "limits.cpu", "divisor": "100m"}),
    _variable("pod/variable-file", fileKeyRef={"volumeName": "config", "path": "a.env", "key": "A"}),
    _variable("pod/variable-file", fileKeyRef={"volumeName": "shm", "path": "../a.env", "key": "A"}),
    _variable("pod/variable-file", fileKeyRef={"volumeName": "shm", "path": "a.env", "key": "A=B"}),
    _variable(None, fileKeyRef={"volumeName": "shm", "path": "a.env", "key": "A"}),
    _variable(None, fieldRef={"apiVersion": "v1", "fieldPath": "metadata.annotations['A/b']"}),
    _variable(None, fieldRef={"fieldPath": "spec.host"}),
    _variable(None, resourceFieldRef={"resource": "limits.memory", "divisor": "1Mi"}),
    _variable(None, resourceFieldRef={"resource": "requests.hugepages-2Mi", "divisor": "0"}),
    in_worker(None, "envFrom", [{"configMapRef": {"name": "a-", "optional": True}}]),
    in_worker(
        None,
        "env",
        [
            {"name": "a.b-c", "value": ""},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}},
        ],
    ),
]
