"""Pods as a server validates them: custom resources are accepted with templates whose Pods are refused later, one by one."""

from tests.k8s.checker.pods.pod import pod_findings
from tests.k8s.checker.pods.templates import Template, pod_templates

__all__ = ["Template", "pod_findings", "pod_templates"]
