"""serveConfigV2 of a RayService: a string that nothing in Kubernetes reads, and that Ray Serve refuses after everything has started.

In: the object. Out: what Ray's own schema refuses, and what it lets pass: unknown keys, route prefixes without "/", minima above
maxima, import paths that do not import, runtime environments with unknown fields.
"""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tests.k8s.checker.documents import loaded
from tests.k8s.checker.nodes import Node, elements, get, join, mapping
from tests.k8s.checker.problem import Findings, rule

YAML = rule("serve/yaml", "write serveConfigV2 as a YAML mapping with applications")
SCHEMA = rule("serve/schema", "write what ray.serve.schema.ServeDeploySchema takes")
UNKNOWN = rule("serve/unknown-key", "correct the key's name or its indentation: Serve would ignore it")
ROUTE = rule("serve/route-prefix", "start the route with '/', and end it without one")
REPLICAS = rule("serve/replicas", "make min_replicas at most max_replicas, and initial_replicas between them")
IMPORT = rule("serve/import-path", "name a module and an attribute that the image has: serving.app:build")
RUNTIME_ENV = rule("serve/runtime-env", "use fields of Ray's runtime environment")

_PATH = "spec.serveConfigV2"


def serve_findings(item: Node, *, imports: bool) -> Findings:
    """In: a RayService; `imports` tries the import paths in this process. Out: what is wrong with its Serve config."""
    text = get(item, "spec.serveConfigV2")
    if text is None:
        return
    try:
        config = loaded(text)
    except (yaml.YAMLError, RecursionError) as error:
        yield YAML.at(_PATH, str(error).partition("\n")[0])
        return
    if not isinstance(config, Mapping):
        yield YAML.at(_PATH, f"a {type(config).__name__}")
        return
    yield from config_findings(config, imports=imports)


def config_findings(config: Node, *, imports: bool, path: str = _PATH) -> Findings:
    """A parsed Serve config.

    >>> [f.rule.id for f in config_findings({"applications": [], "typo": 1}, imports=False)]
    ['serve/unknown-key']
    """
    schema = _schema()
    try:
        schema.model_validate(config)
    except ValidationError as error:
        for entry in error.errors():
            yield SCHEMA.at(".".join([path, *map(str, entry["loc"])]), entry["msg"])
    except ImportError as error:  # Ray imports policies and routers while it validates
        if imports:
            yield IMPORT.at(path, str(error))
    except (AttributeError, TypeError, ValueError) as error:  # of Ray's own code, where a type is wrong
        yield SCHEMA.at(path, str(error))
    yield from _unknown_keys(config, schema, path)
    for place, application in elements(config, "applications", path):
        yield from _application_findings(application, place, imports)
    for place, environment in _runtime_envs(config, path):
        for key in environment.keys() - _runtime_env_fields():
            yield RUNTIME_ENV.at(join(place, str(key)), "unknown field")


@cache
def _schema() -> type[BaseModel]:
    # Imported here: it takes a second that checks of other objects need not wait for.
    from ray.serve.schema import ServeDeploySchema

    schema: type[BaseModel] = ServeDeploySchema
    return schema


@cache
def _runtime_env_fields() -> frozenset[str]:
    from ray.runtime_env import RuntimeEnv

    return frozenset(RuntimeEnv.known_fields)


def _unknown_keys(value: Any, model: type[BaseModel], path: str) -> Findings:
    """Keys that no field of the pydantic models below `model` has; free mappings (args, user_config) are left alone."""
    if not isinstance(value, Mapping):
        return
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, item in value.items():
        place = join(path, str(key))
        if key not in fields:
            yield UNKNOWN.at(place, f"unknown key; there are {', '.join(sorted(fields))}")
            continue
        for child in _models(fields[key].annotation):
            entries = enumerate(item) if isinstance(item, list) else [(None, item)]
            for index, entry in entries:
                yield from _unknown_keys(entry, child, place if index is None else join(place, index))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation: `Union[Dict, AutoscalingConfig, None]` takes a mapping and means the model."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _application_findings(application: Node, path: str, imports: bool) -> Findings:
    route = application.get("route_prefix", "/")
    if route is not None and (not str(route).startswith("/") or (len(str(route)) > 1 and str(route).endswith("/"))):
        yield ROUTE.at(f"{path}.route_prefix", f"{route!r}")
    wrong = _import_error(str(application.get("import_path"))) if imports and "import_path" in application else None
    if wrong:
        yield IMPORT.at(f"{path}.import_path", wrong)
    for place, deployment in elements(application, "deployments", path):
        scaling = deployment.get("autoscaling_config")
        if isinstance(scaling, Mapping):
            automatic = deployment.get("num_replicas") == "auto"
            yield from _scaling_findings(scaling, f"{place}.autoscaling_config", 100 if automatic else 1)


def _scaling_findings(scaling: Node, path: str, default_max: int) -> Findings:
    low, high = scaling.get("min_replicas", 1), scaling.get("max_replicas", default_max)
    initial = scaling.get("initial_replicas")
    if not all(isinstance(number, int) for number in (low, high)) or not isinstance(initial, int | None):
        yield REPLICAS.at(path, f"min_replicas {low!r}, max_replicas {high!r}, initial_replicas {initial!r}")
    elif low < 0 or high < 1 or low > high:
        yield REPLICAS.at(path, f"min_replicas {low}, max_replicas {high}")
    elif initial is not None and not low <= initial <= high:
        yield REPLICAS.at(f"{path}.initial_replicas", f"{initial}, outside {low} to {high}")


@cache
def _import_error(import_path: str) -> str | None:
    """Imports MODULE:ATTRIBUTE or MODULE.ATTRIBUTE as Serve does."""
    module, _, attribute = (
        import_path.replace(":", ".").rpartition(".") if ":" not in import_path else import_path.partition(":")
    )
    if not re.fullmatch(r"[A-Za-z_][\w.]*", module) or not attribute:
        return f"{import_path!r} is not MODULE:ATTRIBUTE"
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        return f"{import_path}: {error}"
    return None


def _runtime_envs(config: Node, path: str) -> Iterator[tuple[str, Node]]:
    for place, application in elements(config, "applications", path):
        if isinstance(application.get("runtime_env"), Mapping):
            yield f"{place}.runtime_env", mapping(application, "runtime_env")
        for inner, deployment in elements(application, "deployments", place):
            environment = get(deployment, "ray_actor_options.runtime_env")
            if isinstance(environment, Mapping):
                yield f"{inner}.ray_actor_options.runtime_env", environment
