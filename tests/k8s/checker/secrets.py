"""Secrets that are written out: by what a variable is called, wherever variables are set, and by what a string looks like, anywhere.

In: an object. Out: variables of containers and of runtime environments (runtimeEnvYAML, serveConfigV2, files in a ConfigMap), assignments
in an entrypoint, keys of a ConfigMap; and in any field tokens of well-known services, private keys and URLs with a password.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.k8s.checker.documents import composed, nodes, pairs
from tests.k8s.checker.nodes import Node, elements, get, join, mapping
from tests.k8s.checker.pods import pod_templates
from tests.k8s.checker.pods.templates import CLUSTERS
from tests.k8s.checker.problem import Findings, rule

SECRET = rule("policy/literal-secret", "take it from a Secret: valueFrom.secretKeyRef, or a mounted file")

_NAME = re.compile(
    r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_KEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS?)$", re.IGNORECASE
)
_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}"  # tokens of well-known services
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]+:[^/\s@$]+@"  # a password in a URL, unless it is a variable
)
_TAKEN = re.compile(r"\$(\w+|\([^)]+\)|\{[^}]+\})")
"""$NAME, $(NAME), ${NAME}: another variable's value."""
_VARIABLES = "env_vars"
_ENTRYPOINTS = ("spec.entrypoint", "spec.jobTemplate.entrypoint")


def secret_findings(item: Node) -> Findings:
    """What of an object is secret, and written out."""
    for path, name, value in _named(item):
        if _NAME.search(name) and value and not _TAKEN.fullmatch(value):
            yield SECRET.at(path, f"{name} is written out")
    for path, text in _strings(item, ""):
        if _VALUE.search(text):
            yield SECRET.at(path, "holds what looks like a secret")


def _named(item: Node) -> Iterator[tuple[str, str, str]]:
    """(path, name, value) of all that has a name of its author's choice."""
    for template in pod_templates(item):
        for path, container in template.containers():
            yield from _of_container(container, path)
    if item.get("kind") in CLUSTERS:
        path = CLUSTERS[str(item["kind"])]
        yield from _of_container(mapping(item, f"{path}.autoscalerOptions"), f"{path}.autoscalerOptions")
        password = get(item, f"{path}.gcsFaultToleranceOptions.redisPassword.value")
        yield f"{path}.gcsFaultToleranceOptions.redisPassword.value", "PASSWORD", str(password or "")
    if item.get("kind") == "ConfigMap":
        yield from ((join("data", str(key)), str(key), str(value)) for key, value in mapping(item, "data").items())
    for path in _ENTRYPOINTS:
        for word in _words(str(get(item, path) or "")):
            name, _, value = word.partition("=")
            yield path, name, value
    for path, text in _strings(item, ""):
        if _VARIABLES in text:
            yield from ((path, name, value) for name, value in _runtime_variables(text))


def _of_container(container: Node, path: str) -> Iterator[tuple[str, str, str]]:
    for place, entry in elements(container, "env", path):
        yield f"{place}.value", str(entry.get("name")), str(entry.get("value") or "")


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote that is not closed
        return command.split()


def _runtime_variables(text: str) -> Iterator[tuple[str, str]]:
    """Variables of the runtime environments in a YAML or JSON document; none where the text is no such document."""
    try:
        documents = list(composed(text))
    except (yaml.YAMLError, RecursionError):
        return
    for node in (node for document in documents for node in nodes(document)):
        for key, variables in pairs(node):
            if key == _VARIABLES:
                yield from ((name, value.value) for name, value in pairs(variables) if isinstance(value.value, str))


def _strings(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, text) of every string."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, child in node.items():
            yield from _strings(child, join(path, str(key)))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _strings(child, f"{path}[{index}]")
