"""Rules of GCS fault tolerance: one way to configure it, and no field of the other backend."""

from __future__ import annotations

from tests.k8s.checker.nodes import Node, get, mapping
from tests.k8s.checker.operator.clusters import Cluster
from tests.k8s.checker.problem import Findings, rule

TWICE = rule("operator/gcs-ft-twice", "keep gcsFaultToleranceOptions and drop the annotation")
REDIS_ENV = rule("operator/redis-address-without-gcs-ft", "set gcsFaultToleranceOptions.redisAddress, not the variable")
PASSWORD_PARAM = rule("operator/redis-password-param", "use gcsFaultToleranceOptions.redisPassword, not rayStartParams")
PASSWORD_ENV = rule("operator/redis-password-env", "use gcsFaultToleranceOptions.redisPassword, not the variable")
ADDRESS_ENV = rule("operator/redis-address-env", "use gcsFaultToleranceOptions.redisAddress, not the variable")
NAMESPACE = rule(
    "operator/external-storage-namespace", "use gcsFaultToleranceOptions.externalStorageNamespace, not the annotation"
)
USERNAME = rule("operator/redis-username", "use gcsFaultToleranceOptions.redisUsername")
STORAGE = rule("operator/redis-with-storage", "drop storage: it belongs to the rocksdb backend")
ROCKSDB = rule(
    "operator/gate-rocksdb", "use the redis backend: gate GCSFaultToleranceEmbeddedStorage is off by default"
)

_ENABLED = "ray.io/ft-enabled"
_NAMESPACE = "ray.io/external-storage-namespace"


def gcs_findings(cluster: Cluster) -> Findings:
    """In: a cluster's spec with the annotations around it. Out: contradictions about GCS fault tolerance."""
    options = get(cluster.spec, "gcsFaultToleranceOptions")
    by_annotation = str(cluster.annotations.get(_ENABLED, ""))
    has_options = options is not None
    params = mapping(cluster.head, "rayStartParams")
    if has_options:
        yield from _option_findings(cluster, mapping(cluster.spec, "gcsFaultToleranceOptions"), params)
        if by_annotation:
            yield TWICE.at(f"metadata.annotations[{_ENABLED}]", "set beside gcsFaultToleranceOptions")
    elif by_annotation.lower() != "true" and cluster.head_env("RAY_REDIS_ADDRESS") is not None:
        yield REDIS_ENV.at(cluster.head_env_path, "RAY_REDIS_ADDRESS is set, and gcsFaultToleranceOptions is not")
    if params.get("redis-username"):
        yield USERNAME.at(cluster.at("headGroupSpec.rayStartParams.redis-username"), "set")
    elif cluster.head_env("REDIS_USERNAME") is not None:
        yield USERNAME.at(cluster.head_env_path, "REDIS_USERNAME is set")


def _option_findings(cluster: Cluster, options: Node, params: Node) -> Findings:
    if params.get("redis-password"):
        yield PASSWORD_PARAM.at(cluster.at("headGroupSpec.rayStartParams.redis-password"), "set")
    if cluster.head_env("REDIS_PASSWORD") is not None:
        yield PASSWORD_ENV.at(cluster.head_env_path, "REDIS_PASSWORD is set beside gcsFaultToleranceOptions")
    if cluster.head_env("RAY_REDIS_ADDRESS") is not None:
        yield ADDRESS_ENV.at(cluster.head_env_path, "RAY_REDIS_ADDRESS is set beside gcsFaultToleranceOptions")
    if cluster.annotations.get(_NAMESPACE):
        yield NAMESPACE.at(f"metadata.annotations[{_NAMESPACE}]", "set beside gcsFaultToleranceOptions")
    if options.get("backend") == "rocksdb":
        yield ROCKSDB.at(cluster.at("gcsFaultToleranceOptions.backend"), "rocksdb needs an alpha gate")
    elif "storage" in options:
        yield STORAGE.at(cluster.at("gcsFaultToleranceOptions.storage"), "set with the redis backend")
