"""The claim that an ephemeral volume makes for its Pod."""

from __future__ import annotations

from tests.k8s.checker import syntax
from tests.k8s.checker.metadata import annotation_findings, label_findings
from tests.k8s.checker.nodes import Node, mapping
from tests.k8s.checker.pods.fields import OBJECT_NAME, not_empty, one_of, written
from tests.k8s.checker.pods.selectors import label_selector_findings
from tests.k8s.checker.problem import Findings, rule
from tests.k8s.checker.quantities import quantity

CLAIM = rule("pod/ephemeral-claim", "give the claim access modes, ReadWriteOncePod alone, and a requested size")
METADATA = rule(
    "pod/claim-metadata",
    "keep labels and annotations, written as Kubernetes writes them: the claim is named after Pod and volume",
)
DATA_SOURCE = rule("pod/claim-data-source", "name a claim, or an object of another API group with that group")

_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


def claim_template_findings(ephemeral: Node, path: str) -> Findings:
    """In: an ephemeral volume's source. Out: what is wrong with its volumeClaimTemplate."""
    place = f"{path}.volumeClaimTemplate"
    yield from _metadata_findings(mapping(ephemeral, "volumeClaimTemplate.metadata"), f"{place}.metadata")
    yield from _spec_findings(mapping(ephemeral, "volumeClaimTemplate.spec"), f"{place}.spec")


def _metadata_findings(metadata: Node, path: str) -> Findings:
    for key in sorted(key for key, value in metadata.items() if value and key not in ("labels", "annotations")):
        yield METADATA.at(f"{path}.{key}", f"{metadata[key]!r}")
    for finding in (*label_findings(metadata, path), *annotation_findings(metadata, path)):
        yield METADATA.at(finding.path, finding.wrong)


def _spec_findings(claim: Node, path: str) -> Findings:
    modes = claim.get("accessModes") or []
    if not modes or set(modes) - set(_MODES) or ("ReadWriteOncePod" in modes and len(set(modes)) > 1):
        yield CLAIM.at(f"{path}.accessModes", f"{', '.join(map(str, modes)) or 'none'}")
    size = quantity(mapping(claim, "resources.requests").get("storage"))
    if size is None or size <= 0:
        yield CLAIM.at(f"{path}.resources.requests.storage", f"{size}")
    yield from one_of(claim, "volumeMode", ("Block", "Filesystem"), path)
    for key in ("storageClassName", "volumeAttributesClassName"):
        yield from written(OBJECT_NAME, claim, key, syntax.dns_subdomain, path, empty_is_unset=True)
    yield from label_selector_findings(claim.get("selector"), f"{path}.selector")
    for key in ("dataSource", "dataSourceRef"):
        if claim.get(key) is not None:
            yield from _data_source_findings(mapping(claim, key), f"{path}.{key}")


def _data_source_findings(source: Node, path: str) -> Findings:
    yield from not_empty(source, "name", path)
    yield from not_empty(source, "kind", path)
    yield from written(DATA_SOURCE, source, "apiGroup", syntax.dns_subdomain, path, empty_is_unset=True)
    if not source.get("apiGroup") and source.get("kind") not in (None, "", "PersistentVolumeClaim"):
        yield DATA_SOURCE.at(f"{path}.kind", f"{source['kind']!r} without an apiGroup")
