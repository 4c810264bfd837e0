"""What KubeRay's operator refuses, and what it takes although it looks close to it."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import CLUSTER, DROP, Case

_HEAD = "spec.headGroupSpec.template.spec.containers[0]"
_WORKERS = "spec.workerGroupSpecs[0]"
_OPTIONS = "spec.upgradeStrategy.clusterUpgradeOptions"
_V2: list[dict[str, Any]] = [{"name": "RAY_enable_autoscaler_v2", "value": "true"}]
_TIMEOUT = "ray.io/initializing-timeout"
_AUTH = {"mode": "token"}
_TOO_MANY = "99999999999999999999"


def _env(name: str) -> dict[str, Any]:
    return {f"{_HEAD}.env": [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}


def _rules(*rules: tuple[str, int]) -> dict[str, Any]:
    """A RayJob's deletion rules at FAILED: (policy, seconds)."""
    entries = [{"policy": policy, "condition": {"jobStatus": "FAILED", "ttlSeconds": ttl}} for policy, ttl in rules]
    return {"spec.shutdownAfterJobFinishes": False, "spec.deletionStrategy.deletionRules": entries}


def _legacy(success: dict[str, Any], failure: dict[str, Any]) -> dict[str, Any]:
    return {"spec.deletionStrategy": {"onSuccess": success, "onFailure": failure}}


_CLUSTERS = [
    Case("operator/name-length", "RayCluster", {"metadata.name": "a" * 54}),
    Case("operator/name-length", "RayJob", {"metadata.name": "a" * 48}),
    Case("operator/name-length", "RayService", {"metadata.name": "a" * 48}),
    Case("operator/name-length", "RayCronJob", {"metadata.name": "a" * 37}),
    Case("operator/name-syntax", "RayCluster", {"metadata.name": "2nd"}),
    Case("operator/name-syntax", "RayCluster", {"metadata.name": "a.b"}),
    Case(
        "operator/upgrade-of-owned-cluster",
        "RayCluster",
        {"spec.upgradeStrategy.type": "Recreate", "metadata.labels": {"ray.io/originated-from-crd": "RayService"}},
    ),
    Case("operator/no-container", "RayCluster", {f"{_WORKERS}.template.spec.containers": []}),
    Case("operator/negative-replicas", "RayCluster", {f"{_WORKERS}.minReplicas": -1}),
    Case("operator/min-above-max", "RayCluster", {f"{_WORKERS}.minReplicas": 3}),
    Case("operator/min-above-max", "autoscaled RayCluster", {f"{_WORKERS}.maxReplicas": 0}),
    Case("operator/resources-twice", "RayCluster", {"spec.headGroupSpec.resources": {"CPU": "1"}}),
    Case("operator/labels-in-params", "RayCluster", {"spec.headGroupSpec.rayStartParams.labels": ""}),
    Case("operator/group-label", "RayCluster", {f"{_WORKERS}.labels": {"a b": "c"}}),
    Case("operator/group-label", "RayCluster", {"spec.headGroupSpec.labels": {"a": "b c"}}),
    Case("operator/suspended-group", "autoscaled RayCluster", {f"{_WORKERS}.suspend": True}),
    Case("operator/v2-env-without-autoscaler", "RayCluster", {f"{_HEAD}.env": _V2}),
    Case("operator/v2-twice", "autoscaled RayCluster", {f"{_HEAD}.env": _V2}),
    Case(
        "operator/v2-restart-policy",
        "autoscaled RayCluster",
        {"spec.headGroupSpec.template.spec.restartPolicy": "Always"},
    ),
    Case(
        "operator/v2-restart-policy", "autoscaled RayCluster", {f"{_WORKERS}.template.spec.restartPolicy": "OnFailure"}
    ),
    Case(
        "operator/autoscaler-start-command",
        "autoscaled RayCluster",
        {"spec.autoscalerOptions.env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}]},
    ),
    Case("operator/negative-idle-timeout", "autoscaled RayCluster", {"spec.autoscalerOptions.idleTimeoutSeconds": -1}),
    Case("operator/negative-idle-timeout", "autoscaled RayCluster", {f"{_WORKERS}.idleTimeoutSeconds": -1}),
    Case("operator/group-idle-timeout-needs-v2", "RayCluster", {f"{_WORKERS}.idleTimeoutSeconds": 0}),
    Case("operator/priority-needs-v2", "RayCluster", {f"{_WORKERS}.priority": 1}),
    Case(
        "operator/priority-needs-ray", "autoscaled RayCluster", {f"{_WORKERS}.priority": 1, "spec.rayVersion": "2.55.1"}
    ),
    Case(
        "operator/gcs-ft-twice",
        "RayCluster",
        {
            "metadata.annotations": {"ray.io/ft-enabled": "false"},
            "spec.gcsFaultToleranceOptions": {"redisAddress": "redis:6379"},
        },
    ),
    Case("operator/redis-address-without-gcs-ft", "RayCluster", _env("RAY_REDIS_ADDRESS")),
    Case(
        "operator/redis-password-param",
        "RayCluster",
        {"spec.gcsFaultToleranceOptions": {}, "spec.headGroupSpec.rayStartParams.redis-password": "$P"},
    ),
    Case("operator/redis-password-env", "RayCluster", {"spec.gcsFaultToleranceOptions": {}, **_env("REDIS_PASSWORD")}),
    Case(
        "operator/redis-address-env", "RayCluster", {"spec.gcsFaultToleranceOptions": {}, **_env("RAY_REDIS_ADDRESS")}
    ),
    Case(
        "operator/external-storage-namespace",
        "RayCluster",
        {"spec.gcsFaultToleranceOptions": {}, "metadata.annotations": {"ray.io/external-storage-namespace": "a"}},
    ),
    Case("operator/redis-username", "RayCluster", _env("REDIS_USERNAME")),
    Case("operator/redis-with-storage", "RayCluster", {"spec.gcsFaultToleranceOptions": {"storage": {"size": "1Gi"}}}),
    Case("operator/gate-rocksdb", "RayCluster", {"spec.gcsFaultToleranceOptions": {"backend": "rocksdb"}}),
    Case("operator/auth-needs-ray", "RayCluster", {"spec.authOptions": _AUTH, "spec.rayVersion": "2.51.9"}),
    Case("operator/auth-needs-ray", "RayCluster", {"spec.authOptions": _AUTH, "spec.rayVersion": "nightly"}),
    Case("operator/auth-needs-ray", "RayCluster", {"spec.authOptions": _AUTH, "spec.rayVersion": "02.60.0"}),
    Case("operator/auth-needs-ray", "RayCluster", {"spec.authOptions": _AUTH, "spec.rayVersion": f"2.{_TOO_MANY}"}),
    Case(
        "operator/k8s-auth-needs-ray",
        "RayCluster",
        {"spec.authOptions": {**_AUTH, "enableK8sTokenAuth": True}, "spec.rayVersion": "2.54.0"},
    ),
    Case(
        "operator/k8s-auth-with-secret",
        "RayCluster",
        {"spec.authOptions": {**_AUTH, "enableK8sTokenAuth": True, "secretName": "a"}},
        {"externals": ["Secret/a"]},
    ),
    Case("operator/k8s-auth-needs-token-mode", "RayCluster", {"spec.authOptions": {"enableK8sTokenAuth": True}}),
    Case("operator/gate-network-policy", "RayCluster", {"spec.networkPolicy": {}}),
    Case("operator/gate-tls", "RayCluster", {"spec.tlsOptions": {"enabled": False}}),
    Case("operator/gate-history-server", "RayCluster", {"spec.historyServerOptions": {}}),
]

_JOBS = [
    Case("operator/suspend-needs-shutdown", "RayJob", {"spec.suspend": True, "spec.shutdownAfterJobFinishes": False}),
    Case(
        "operator/suspend-with-selector",
        "RayJob with selector",
        {"spec.suspend": True, "spec.shutdownAfterJobFinishes": True},
    ),
    Case(
        "operator/ttl-needs-shutdown",
        "RayJob",
        {"spec.ttlSecondsAfterFinished": 1, "spec.shutdownAfterJobFinishes": DROP},
    ),
    Case("operator/negative-ttl", "RayJob", {"spec.ttlSecondsAfterFinished": -1}),
    Case("operator/no-cluster", "RayJob", {"spec.rayClusterSpec": DROP}),
    Case(
        "operator/no-cluster",
        "RayCronJob",
        {"spec.jobTemplate.rayClusterSpec": DROP, "spec.jobTemplate.clusterSelector": {}},
    ),
    Case("operator/selector-without-cluster", "RayJob with selector", {"spec.clusterSelector": {"app": "a"}}),
    Case("operator/selector-with-sidecar", "RayJob with selector", {"spec.submissionMode": "SidecarMode"}),
    Case("operator/selector-with-backoff", "RayJob with selector", {"spec.backoffLimit": 1}),
    Case(
        "operator/interactive-with-backoff",
        "RayJob",
        {"spec.submissionMode": "InteractiveMode", "spec.backoffLimit": 1},
    ),
    Case(
        "operator/sidecar-with-submitter-template",
        "RayJob",
        {"spec.submissionMode": "SidecarMode", "spec.submitterPodTemplate": CLUSTER["headGroupSpec"]["template"]},
    ),
    Case(
        "operator/sidecar-with-submitter-config",
        "RayJob",
        {"spec.submissionMode": "SidecarMode", "spec.submitterConfig": {}},
    ),
    Case(
        "operator/sidecar-restart-policy",
        "RayJob",
        {
            "spec.submissionMode": "SidecarMode",
            "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy": "Always",
        },
    ),
    Case("operator/runtime-env", "RayJob", {"spec.runtimeEnvYAML": "env_vars: ["}),
    Case("operator/runtime-env", "RayJob", {"spec.runtimeEnvYAML": '"null"'}),
    Case("operator/runtime-env", "RayJob", {"spec.runtimeEnvYAML": "a: {~: b}"}),
    Case("operator/runtime-env", "RayJob", {"spec.runtimeEnvYAML": "a: [.nan]"}),
    Case("operator/runtime-env", "RayJob", {"spec.runtimeEnvYAML": "a: &a {b: *a}"}),
    Case("operator/runtime-env", "RayJob", {"spec.runtimeEnvYAML": f"a: &a [{'x,' * 9}]\nb: [{'*a,' * 900}]"}),
    Case("operator/runtime-env", "RayCronJob", {"spec.jobTemplate.runtimeEnvYAML": "- a"}),
    Case("operator/active-deadline", "RayJob", {"spec.activeDeadlineSeconds": 0}),
    Case("operator/negative-backoff", "RayJob", {"spec.backoffLimit": -1}),
    Case(
        "operator/k8s-auth-only-raycluster",
        "RayJob",
        {"spec.rayClusterSpec.authOptions": {**_AUTH, "enableK8sTokenAuth": True}},
    ),
    Case(
        "operator/rules-with-shutdown", "RayJob", {**_rules(("DeleteSelf", 0)), "spec.shutdownAfterJobFinishes": True}
    ),
    Case("operator/deletion-with-selector", "RayJob with selector", _rules(("DeleteCluster", 0))),
    Case(
        "operator/deletion-with-selector",
        "RayJob with selector",
        _legacy({"policy": "DeleteWorkers"}, {"policy": "DeleteSelf"}),
    ),
    Case(
        "operator/delete-workers-with-autoscaler",
        "RayJob",
        {**_rules(("DeleteWorkers", 0)), "spec.rayClusterSpec.enableInTreeAutoscaling": True},
    ),
    Case("operator/duplicate-deletion-rule", "RayJob", _rules(("DeleteSelf", 1), ("DeleteSelf", 2))),
    Case("operator/deletion-order", "RayJob", _rules(("DeleteSelf", 10), ("DeleteCluster", 20))),
    Case("operator/deletion-order", "RayJob", _rules(("DeleteWorkers", 30), ("DeleteSelf", 20))),
    Case("operator/deletion-without-policy", "RayJob", _legacy({}, {"policy": "DeleteSelf"})),
    Case("operator/shutdown-with-delete-none", "RayJob", _legacy({"policy": "DeleteNone"}, {"policy": "DeleteSelf"})),
    Case("operator/zone-in-schedule", "RayCronJob", {"spec.schedule": "TZ=UTC 0 3 * * *"}),
    Case("operator/schedule", "RayCronJob", {"spec.schedule": "0 3 * * 7"}),
    Case("operator/schedule", "RayCronJob", {"spec.schedule": "@every soon"}),
    Case("operator/schedule", "RayCronJob", {"spec.schedule": f"*/{_TOO_MANY} * * * *"}),
    Case("operator/schedule", "RayCronJob", {"spec.schedule": "0 0 3 * * *"}),
    Case("operator/time-zone", "RayCronJob", {"spec.timeZone": "Berlin"}),
]

_SERVICES = [
    Case(
        "operator/k8s-auth-only-raycluster",
        "RayService",
        {"spec.rayClusterConfig.authOptions": {**_AUTH, "enableK8sTokenAuth": True}},
    ),
    Case(
        "operator/head-service-name",
        "RayService",
        {"spec.rayClusterConfig.headGroupSpec.headService.metadata.name": "a"},
    ),
    Case("operator/upgrade-type", "RayService", {"spec.upgradeStrategy.type": "newCluster"}),
    *(
        Case("operator/initializing-timeout", "RayService", {"metadata.annotations": {_TIMEOUT: timeout}})
        for timeout in ("0s", "1.5", "10000000h", _TOO_MANY, "١h")
    ),
    Case(
        "operator/incremental-needs-autoscaler",
        "incremental RayService",
        {"spec.rayClusterConfig.enableInTreeAutoscaling": DROP},
    ),
    Case("operator/incremental-needs-options", "incremental RayService", {_OPTIONS: DROP}),
    Case("operator/upgrade-percent", "incremental RayService", {f"{_OPTIONS}.maxSurgePercent": 101}),
    Case("operator/upgrade-percent", "incremental RayService", {f"{_OPTIONS}.stepSizePercent": -1}),
    Case("operator/step-above-surge", "incremental RayService", {f"{_OPTIONS}.stepSizePercent": 51}),
    Case("operator/upgrade-interval", "incremental RayService", {f"{_OPTIONS}.intervalSeconds": 0}),
    Case("operator/gateway-class", "incremental RayService", {f"{_OPTIONS}.gatewayClassName": ""}),
    Case(
        "operator/redis-username",
        "RayService",
        {"spec.rayClusterConfig.headGroupSpec.rayStartParams.redis-username": "a"},
    ),
]

_FINE = [
    Case(None, "RayCluster", {"metadata.name": "a" * 53}),
    Case(None, "RayCluster", {"metadata.annotations": {"ray.io/ft-enabled": "TRUE"}, **_env("RAY_REDIS_ADDRESS")}),
    Case(None, "RayCluster", {f"{_HEAD}.env": [{"name": "RAY_enable_autoscaler_v2", "value": "0"}]}),
    Case(
        None,
        "RayCluster",
        {"spec.autoscalerOptions.version": "v2", f"{_WORKERS}.template.spec.restartPolicy": "Always"},
    ),
    Case(None, "RayCluster", {"spec.authOptions": _AUTH, "spec.rayVersion": "2.52"}),
    Case(
        None, "RayCluster", {"spec.authOptions": {**_AUTH, "enableK8sTokenAuth": True}, "spec.rayVersion": "v2.55.0rc1"}
    ),
    Case(None, "RayCluster", {"spec.authOptions": {"mode": "disabled"}, "spec.rayVersion": DROP}),
    Case(None, "RayCluster", {f"{_WORKERS}.suspend": True, f"{_WORKERS}.priority": 0}),
    Case(None, "autoscaled RayCluster", {f"{_WORKERS}.priority": 1, f"{_WORKERS}.idleTimeoutSeconds": 0}),
    Case(None, "RayCluster", {f"{_WORKERS}.minReplicas": 2, f"{_WORKERS}.replicas": 9}),
    Case(None, "RayCluster", {"spec.upgradeStrategy.type": "None"}),
    Case(None, "RayJob", {**_rules(("DeleteWorkers", 1), ("DeleteCluster", 1), ("DeleteSelf", 2))}),
    Case(None, "RayJob", {"spec.suspend": True, "spec.ttlSecondsAfterFinished": 60, "spec.backoffLimit": 2}),
    Case(None, "RayJob", {"spec.runtimeEnvYAML": "a: !unheard {1: .5, b: ~, c: '.nan'}"}),
    Case(None, "RayJob", {"spec.runtimeEnvYAML": "~"}),
    Case(None, "RayJob", {"spec.runtimeEnvYAML": "a: &a [1, 2]\nb: [*a, *a]\nc: {d: *a}"}),
    Case(None, "RayJob", {"spec.runtimeEnvYAML": "", "spec.submissionMode": "HTTPMode"}),
    Case(None, "RayJob with selector", _rules(("DeleteSelf", 0), ("DeleteNone", 0))),
    Case(None, "RayCronJob", {"metadata.name": "2nd", "spec.schedule": "@every 1h30m"}),
    Case(None, "RayCronJob", {"spec.schedule": "*/5 0-6/2 1,15 JAN-mar ?", "spec.timeZone": "UTC"}),
    Case(None, "RayService", {"metadata.annotations": {_TIMEOUT: "90"}}),
    Case(None, "RayService", {"spec.upgradeStrategy.type": "None"}),
    Case(
        None,
        "RayService",
        {
            "spec.upgradeStrategy.type": "NewCluster",
            f"{_OPTIONS}": {"gatewayClassName": "", "stepSizePercent": 200, "intervalSeconds": 0},
        },
    ),
]

CASES = [*_CLUSTERS, *_JOBS, *_SERVICES, *_FINE]
