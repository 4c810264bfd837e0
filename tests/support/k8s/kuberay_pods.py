"""Pods as KubeRay 1.7 makes them of Ray's kinds: start commands, variables, init container and probes, which stand in no manifest.

After ray-operator/controllers/ray: common/pod.go (heads, workers), common/job.go and rayjob_controller.go (submitters), utils/constant.go.
Left out: the autoscaler beside a head, which talks to an API server, and what our manifests do not use (a group's `resources` and
`labels`, TLS, the history server): asking for those fails.
"""

from __future__ import annotations

import copy
import math
import shlex
from dataclasses import dataclass
from typing import Any

from tests.k8s.checker.quantities import quantity
from tests.support.k8s.rendering import Object, cluster_of

DASHBOARD_PORT = 8265
AGENT_PORT = 52365
GCS_PORT = 6379
TOKEN_KEY = "auth_token"
_GROUP_KEYS = {"template", "rayStartParams", "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"}
_CLUSTER_KEYS = {
    "rayVersion", "upgradeStrategy", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs", "authOptions",
    "gcsFaultToleranceOptions",
}  # fmt: skip
_WGET = "wget --tries 1 -T {timeout} -q -O- http://{host}:{port}/{path} | grep success"
_WAIT_FOR_GCS = """
SECONDS=0
while true; do
  if (( SECONDS <= 120 )); then
    if ray health-check --address {address} > /dev/null 2>&1; then
      echo "GCS is ready."
      break
    fi
    echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."
  else
    if ray health-check --address {address}; then
      echo "GCS is ready. Any error messages above can be safely ignored."
      break
    fi
    echo "$SECONDS seconds elapsed: Still waiting for GCS to be ready."
  fi
  sleep 5
done
"""


@dataclass(frozen=True)
class RayPods:
    """The pods of one of Ray's objects."""

    owner: Object
    """A RayCluster, RayJob or RayService."""
    suffix: str = "x7k2p"
    """What the operator draws: of the cluster's name, the job's id, the pods' names."""

    @property
    def cluster(self) -> str:
        """The RayCluster's name, and that of the Secret that holds its token."""
        name = str(self.owner["metadata"]["name"])
        return name if self.owner["kind"] == "RayCluster" else f"{name}-{self.suffix}"

    @property
    def namespace(self) -> str:
        """Of all pods."""
        return str(self.owner["metadata"]["namespace"])

    @property
    def head_host(self) -> str:
        """The name of the head's service, which workers and submitters ask for."""
        return f"{self.cluster}-head-svc.{self.namespace}.svc.cluster.local"

    @property
    def job_id(self) -> str:
        """Of a RayJob's submission."""
        return f"{self.owner['metadata']['name']}-{self.suffix}"

    @property
    def workers_at_first(self) -> int:
        """Pods of the first worker group before an autoscaler changes their number."""
        return int(self._spec()["workerGroupSpecs"][0]["replicas"])

    def head(self) -> Object:
        """The head's pod."""
        spec = self._spec()
        group = spec["headGroupSpec"]
        params = {**group["rayStartParams"], "dashboard-host": group["rayStartParams"].get("dashboard-host", "0.0.0.0")}
        if spec.get("enableInTreeAutoscaling"):
            params["no-monitor"] = "true"
        return self._pod(group, "head", "headgroup", params, "127.0.0.1")

    def worker(self, group: int = 0, number: int = 0) -> Object:
        """A pod of a worker group."""
        found = self._spec()["workerGroupSpecs"][group]
        params = {"address": f"{self.head_host}:{GCS_PORT}", **found["rayStartParams"]}
        pod = self._pod(found, "worker", found["groupName"], params, self.head_host, number)
        container = pod["spec"]["containers"][0]
        names = [
            {"name": "FQ_RAY_IP", "value": self.head_host},
            {"name": "RAY_IP", "value": self.head_host.partition(".")[0]},
        ]
        waiting = {
            "name": "wait-gcs-ready",
            "image": container["image"],
            "command": ["/bin/bash", "-c", "--"],
            "args": [_WAIT_FOR_GCS.format(address=f"{self.head_host}:{GCS_PORT}")],
            "securityContext": container["securityContext"],
            "env": [*found["template"]["spec"]["containers"][0]["env"], *self._auth(), *names],
            "volumeMounts": container["volumeMounts"],
        }
        pod["spec"]["initContainers"] = [waiting]
        return pod

    def submitter(self) -> Object:
        """The pod of the Job that hands a RayJob's entrypoint to the head. Newer operators wait with Python in place of wget."""
        template = copy.deepcopy(self.owner["spec"]["submitterPodTemplate"])
        container = template["spec"]["containers"][0]
        host = f"{self.head_host}:{DASHBOARD_PORT}"
        address = f"http://{host}"
        healthy = _WGET.format(timeout=10, host=self.head_host, port=DASHBOARD_PORT, path="api/gcs_healthz")
        container["command"] = ["/bin/bash", "-ce", "--"]
        waiting = f'echo "Waiting for Ray Dashboard GCS to become healthy at {address} ..."'
        job, entrypoint = f"--address {address}", self.owner["spec"]["entrypoint"].strip()
        container["args"] = [
            f"until {healthy} >/dev/null 2>&1 ; do {waiting} ; sleep 2 ; done ; "
            f"if ! ray job status {job} {self.job_id} >/dev/null 2>&1 ; then "
            f"ray job submit {job} --no-wait --submission-id {self.job_id} -- {entrypoint} ; fi ; "
            f"ray job logs {job} --follow {self.job_id}"
        ]
        container["env"] = [
            *container.get("env", ()),
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "RAY_DASHBOARD_ADDRESS", "value": host},
            {"name": "RAY_JOB_SUBMISSION_ID", "value": self.job_id},
            *self._auth(),
        ]
        metadata = {
            **template["metadata"],
            "name": f"{self.owner['metadata']['name']}-{self.suffix}",
            "namespace": self.namespace,
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _spec(self) -> Object:
        spec = cluster_of(self.owner)
        assert spec.keys() <= _CLUSTER_KEYS, spec.keys() - _CLUSTER_KEYS
        return spec

    def _auth(self) -> list[Object]:
        if self._spec().get("authOptions") != {"mode": "token"}:
            return []
        token = {"secretKeyRef": {"name": self.cluster, "key": TOKEN_KEY}}
        return [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN", "valueFrom": token}]

    def _pod(
        self, group: Object, role: str, group_name: str, params: dict[str, str], host: str, number: int = 0
    ) -> Object:
        assert group.keys() <= _GROUP_KEYS, group.keys() - _GROUP_KEYS
        template = copy.deepcopy(group["template"])
        container = template["spec"]["containers"][0]
        params = {
            "metrics-export-port": "8080", "dashboard-agent-listen-port": str(AGENT_PORT), **sizes(container), **params, "block": "true",
            **self._redis_params(role),
        }  # fmt: skip
        start = start_command(role, params)
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/dev/shm", "/tmp/ray"} <= mounted, "where these are missing the operator adds them"
        container["command"] = ["/bin/bash", "-c", "--"]
        container["args"] = [f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {start}"]
        container["env"] = self._variables(container.get("env", []), role, start, host)
        probes(container, role, serves=self.owner["kind"] == "RayService")
        name = f"{self.cluster}-head" if role == "head" else f"{self.cluster}-{group_name}-worker"
        labels = {
            **template["metadata"]["labels"],
            "ray.io/cluster": self.cluster,
            "ray.io/node-type": role,
            "ray.io/group": group_name,
        }
        metadata = {"name": f"{name}-{number}", "namespace": self.namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _redis_params(self, role: str) -> dict[str, str]:
        asked = self._spec().get("gcsFaultToleranceOptions") or {}
        return {"redis-password": "$REDIS_PASSWORD"} if role == "head" and "redisPassword" in asked else {}

    def _variables(self, own: list[Object], role: str, start: str, host: str) -> list[Object]:
        """Those of the manifest, and what the operator adds; a manifest's own value stays where the operator says so."""
        spec, serves = self._spec(), self.owner["kind"] == "RayService"
        redis = spec.get("gcsFaultToleranceOptions")
        given = {entry["name"] for entry in own}

        def field(name: str, path: str) -> Object:
            return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

        added: list[Object] = []
        if role == "head" and spec.get("enableInTreeAutoscaling"):
            version = spec.get("autoscalerOptions", {}).get("version")
            added += [{"name": "RAY_enable_autoscaler_v2", "value": str(version == "v2").lower()}]
        if redis and role == "head":
            added += [
                {
                    "name": "RAY_external_storage_namespace",
                    "value": redis.get("externalStorageNamespace", "uid-of-the-cluster"),
                },
                {"name": "RAY_REDIS_ADDRESS", "value": redis["redisAddress"]},
                {"name": "REDIS_PASSWORD", **redis["redisPassword"]},
            ]
        elif redis:
            added += [{"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "600"}]
        added += self._auth()
        if role == "worker":
            added += [{"name": "FQ_RAY_IP", "value": host}, {"name": "RAY_IP", "value": host.partition(".")[0]}]
        added += [
            field("RAY_CLUSTER_NAME", "metadata.labels['ray.io/cluster']"),
            field("RAY_CLUSTER_NAMESPACE", "metadata.namespace"),
            field("RAY_CLOUD_INSTANCE_ID", "metadata.name"),
            field("RAY_NODE_TYPE_NAME", "metadata.labels['ray.io/group']"),
            {"name": "KUBERAY_GEN_RAY_START_CMD", "value": start},
            {"name": "RAY_PORT", "value": str(GCS_PORT)},
        ]
        if serves:
            added += [
                {"name": "RAY_timeout_ms_task_wait_for_death_info", "value": "0"},
                {"name": "RAY_gcs_server_request_timeout_seconds", "value": "5"},
                {"name": "RAY_SERVE_KV_TIMEOUT_S", "value": "5"},
            ]
        added += [
            {"name": "RAY_ADDRESS", "value": f"{host}:{GCS_PORT}"},
            {"name": "RAY_USAGE_STATS_KUBERAY_IN_USE", "value": "1"},
            {"name": "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "value": "1"},
        ]
        return [*own, *(entry for entry in added if entry["name"] not in given)]


def sizes(container: Object) -> dict[str, str]:
    """A container's resources as `ray start` takes them: limits (of CPUs the request, where there is none), rounded up; bytes."""
    limits, requests = container["resources"].get("limits", {}), container["resources"].get("requests", {})
    found = {"num-cpus": limits.get("cpu", requests.get("cpu")), "memory": limits.get("memory")}
    found["num-gpus"] = next((amount for name, amount in sorted(limits.items()) if name.endswith("gpu")), None)
    return {name: str(math.ceil(number)) for name, value in found.items() if (number := quantity(value))}


def start_command(role: str, params: dict[str, str]) -> str:
    """`ray start` with its flags in the order of their names; a flag that is `false` is left out."""
    flags = [
        f"--{name}" if value.lower() == "true" else f"--{name}={value}"
        for name, value in sorted(params.items())
        if value.lower() != "false"
    ]
    return " ".join(["ray", "start", *(["--head"] if role == "head" else []), *flags])


def probes(container: Object, role: str, *, serves: bool) -> None:
    """Adds readiness and liveness where the manifest has none, for Ray from 2.53 on. A RayService's worker is ready when its proxy is."""
    timeout_s = 5 if role == "head" else 2
    healthy = {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}}
    times = {"timeoutSeconds": timeout_s, "periodSeconds": 5, "successThreshold": 1}
    container.setdefault("livenessProbe", {**healthy, **times, "initialDelaySeconds": 30, "failureThreshold": 120})
    ready: dict[str, Any] = {**healthy, **times, "initialDelaySeconds": 10, "failureThreshold": 10}
    if serves and role == "worker":
        port = next((p["containerPort"] for p in container["ports"] if p["name"] == "serve"), 8000)
        raylet = _WGET.format(timeout=2, host="localhost", port=AGENT_PORT, path="api/local_raylet_healthz")
        proxy = _WGET.format(timeout=10, host="localhost", port=port, path="-/healthz")
        ready = {
            "exec": {"command": ["bash", "-c", f"{raylet} && {proxy}"]},
            **times,
            "initialDelaySeconds": 10,
            "failureThreshold": 1,
        }
    container.setdefault("readinessProbe", ready)


def words(pod: Object) -> list[str]:
    """The command of a pod's Ray container, as words."""
    return shlex.split(pod["spec"]["containers"][0]["args"][0].rpartition("; ")[2])
