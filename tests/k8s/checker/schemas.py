"""Schemas: which fields an object may have, and of which types.

KubeRay's CRDs are OpenAPI schemas with Kubernetes' extensions. jsonschema checks them with three changes, as the API server does:
unknown fields are refused, a missing field with a default is not missing, and `x-kubernetes-*` rules are evaluated.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cel
import kubernetes_validate
import yaml
from jsonschema import Draft4Validator, ValidationError, validators  # type: ignore[import-untyped]

from tests.k8s.checker.problem import Object, Problem, title

KUBERNETES = "1.36"
KINDS = Path(__file__).with_name("kinds.yaml")
_RULE = "apiserver/schema"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Errors = Iterator[ValidationError]


def schema_problems(item: Object, crds: Path | None) -> Iterator[Problem]:
    """Problems of one object with the schema of its kind. `crds`: the folder with KubeRay's CRDs; None skips Ray's kinds."""
    api_version, kind = str(item.get("apiVersion")), str(item.get("kind"))
    if crds is None and api_version.startswith("ray.io/"):
        return
    schema = {**_other_kinds(), **(ray_kinds(crds) if crds else {})}.get((api_version, kind))
    if schema is None:
        yield from _core_problems(json.dumps(item, sort_keys=True))
        return
    for error in _Validator(schema).iter_errors(item):
        yield Problem(title(item), error.json_path, _RULE, error.message)
    # A CRD leaves the schema of `metadata` out. It is the same for all kinds.
    like = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": item.get("metadata")}
    yield from (Problem(title(item), found.path, _RULE, found.message) for found in _core_problems(json.dumps(like)))


@cache
def _core_problems(text: str) -> tuple[Problem, ...]:
    """In: an object as JSON text, because kubernetes-validate reads a megabyte of schemas for each call."""
    item: Object = json.loads(text)
    try:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (Problem(title(item), error.json_path, _RULE, error.message),)
    except kubernetes_validate.SchemaNotFoundError as error:
        return (Problem(title(item), "kind", _RULE, f"{error.message}. Add the kind to {KINDS.name}."),)
    return ()


@cache
def ray_kinds(crds: Path) -> dict[tuple[str, str], Object]:
    """Schemas of KubeRay's CRDs by apiVersion and kind. Parsing four megabytes of YAML takes seconds."""
    found: dict[tuple[str, str], Object] = {}
    for file in sorted(crds.glob("ray.io_*.yaml")):
        spec = yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER)["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = version["schema"]["openAPIV3Schema"]
    assert found, f"RAYSTILL_KUBERAY_CRDS={crds}: contains no ray.io_*.yaml"
    return found


@cache
def _other_kinds() -> dict[tuple[str, str], Object]:
    """Schemas in kinds.yaml by apiVersion and kind."""
    found: dict[tuple[str, str], Object] = {}
    for entry in yaml.safe_load(KINDS.read_text(encoding="utf-8"))["kinds"]:
        head = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        needed = ["spec"] if "required" in entry["spec"] else []
        properties = {**head, "spec": entry["spec"]}
        found[entry["apiVersion"], entry["kind"]] = {"type": "object", "required": needed, "properties": properties}
    return found


def _known_properties(validator: Any, properties: Object, instance: Any, schema: Object) -> Errors:
    yield from Draft4Validator.VALIDATORS["properties"](validator, properties, instance, schema)
    closed = "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(instance, Mapping) and closed:
        yield from (ValidationError(f"no field {key!r}", path=[key]) for key in instance.keys() - properties.keys())


def _required_without_default(validator: Any, required: Sequence[str], instance: Any, schema: Object) -> Errors:
    needed = [key for key in required if "default" not in schema.get("properties", {}).get(key, {})]
    yield from Draft4Validator.VALIDATORS["required"](validator, needed, instance, schema)


def _unique_items(validator: Any, kind: str, instance: Any, schema: Object) -> Errors:
    if kind not in ("map", "set") or not isinstance(instance, list):
        return
    items = schema["items"].get("properties", {})
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen = []
    for index, item in enumerate(instance):
        identity = [item.get(key, items[key].get("default")) for key in keys] if kind == "map" else item
        if identity in seen:
            yield ValidationError(f"duplicate entry {identity}", path=[index])
        seen.append(identity)


def _int32(validator: Any, name: str, instance: Any, schema: Object) -> Errors:
    if name == "int32" and isinstance(instance, int) and not -(2**31) <= instance < 2**31:
        yield ValidationError(f"{instance} does not fit int32")


def _cel_rules(validator: Any, rules: Sequence[Object], instance: Any, schema: Object) -> Errors:
    for rule in rules:
        # Rules about `oldSelf` compare with the stored object, which does not exist at creation.
        if "oldSelf" not in rule["rule"] and _program(rule["rule"]).execute({"self": instance}) is not True:
            yield ValidationError(rule.get("message", rule["rule"]))


@cache
def _program(expression: str) -> cel.Program:
    return cel.compile(expression)


_Validator = validators.extend(
    Draft4Validator,
    {"properties": _known_properties, "required": _required_without_default, "format": _int32}
    | {"x-kubernetes-list-type": _unique_items, "x-kubernetes-validations": _cel_rules},
)
