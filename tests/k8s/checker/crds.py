"""CustomResourceDefinitions: which kinds they define, and an object held against its schema.

crds = load_crds(folder)
crds.findings({"apiVersion": "ray.io/v1", "kind": "RayJob", ...})   # layer apiserver
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.k8s.checker.cel_rules import cel_findings
from tests.k8s.checker.metadata import metadata_findings
from tests.k8s.checker.nodes import Node
from tests.k8s.checker.problem import Finding, Findings
from tests.k8s.checker.structure import check_keywords, defaulted, unknown_fields, value_findings


@dataclass(frozen=True)
class Definition:
    """One served version of a kind."""

    schema: Node
    namespaced: bool
    has_status: bool

    def defaulted(self, item: Node) -> dict[str, Any]:
        """The object as the API server stores it: without unset nulls and status, with defaults."""
        kept = {key: value for key, value in item.items() if not (self.has_status and key == "status")}
        result: dict[str, Any] = defaulted(kept, self.schema)
        return result

    def findings(self, item: Node) -> Findings:
        """What the API server refuses `item` for when it is created."""
        # Metadata has a fixed schema of its own, which a CRD leaves out.
        body = {key: {} if key == "metadata" else value for key, value in item.items()}
        unknown = list(unknown_fields(body, self.schema, ""))
        yield from unknown
        yield from metadata_findings(item.get("metadata"), namespaced=self.namespaced)
        stored = self.defaulted(body)
        wrong: list[Finding] = list(value_findings(stored, self.schema, ""))
        yield from wrong
        if not wrong:
            yield from cel_findings(stored, self.schema, "")


class Crds(Mapping[tuple[str, str], Definition]):
    """Definitions by (apiVersion, kind)."""

    def __init__(self, definitions: Mapping[tuple[str, str], Definition]) -> None:
        self._definitions = dict(definitions)

    def __getitem__(self, key: tuple[str, str]) -> Definition:
        return self._definitions[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)

    def of(self, item: Node) -> Definition | None:
        """The definition of an object's kind, None where it has none here."""
        return self._definitions.get((str(item.get("apiVersion")), str(item.get("kind"))))


@cache
def load_crds(*folders: Path) -> Crds:
    """All CustomResourceDefinitions in the `*.yaml` files of some folders; a second takes about a megabyte of them."""
    definitions: dict[tuple[str, str], Definition] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*.yaml")):
        for document in yaml.load_all(file.read_text(encoding="utf-8"), Loader=_FAST_LOADER):
            if isinstance(document, Mapping) and document.get("kind") == "CustomResourceDefinition":
                definitions.update(_definitions(document["spec"]))
    assert definitions, f"there is no CustomResourceDefinition in {', '.join(map(str, folders))}"
    return Crds(definitions)


_FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _definitions(spec: Node) -> Iterator[tuple[tuple[str, str], Definition]]:
    for version in spec["versions"]:
        if version["served"]:
            schema = version["schema"]["openAPIV3Schema"]
            check_keywords(schema, spec["names"]["kind"])
            has_status = "status" in version.get("subresources", {})
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            yield key, Definition(schema, spec["scope"] == "Namespaced", has_status)
