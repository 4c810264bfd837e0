"""Pods as KubeRay 1.7 creates them: with start commands, variables, init containers and probes that no manifest contains.

Source: ray-operator/controllers/ray: common/pod.go (heads, workers), common/job.go, rayjob_controller.go (submitters), utils/constant.go.
It covers the fields that tests/k8s/checker/rules.yaml allows. The autoscaler's container is left out: it needs an API server.
"""

import copy
import math
import shlex
from dataclasses import dataclass
from typing import Any

from tests.support.k8s.quantities import quantity
from tests.support.k8s.rendering import Object, cluster_of

DASHBOARD_PORT = 8265
AGENT_PORT = 52365
GCS_PORT = 6379
TOKEN_KEY = "auth_token"
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
    """The pods of a RayCluster, RayJob or RayService."""

    owner: Object
    suffix: str = "x7k2p"
    """The random part of the names of the cluster, the job and the pods."""

    @property
    def cluster(self) -> str:
        """The RayCluster's name. The Secret with its token has the same name."""
        name = str(self.owner["metadata"]["name"])
        return name if self.owner["kind"] == "RayCluster" else f"{name}-{self.suffix}"

    @property
    def namespace(self) -> str:
        return str(self.owner["metadata"]["namespace"])

    @property
    def head_host(self) -> str:
        return f"{self.cluster}-head-svc.{self.namespace}.svc.cluster.local"

    @property
    def job_id(self) -> str:
        """The submission id of a RayJob."""
        return f"{self.owner['metadata']['name']}-{self.suffix}"

    @property
    def initial_workers(self) -> int:
        """The number of pods in the first worker group before an autoscaler changes it."""
        return int(cluster_of(self.owner)["workerGroupSpecs"][0]["replicas"])

    def head(self) -> Object:
        spec = cluster_of(self.owner)
        group = spec["headGroupSpec"]
        params = {"dashboard-host": "0.0.0.0", **group["rayStartParams"]}
        if spec.get("enableInTreeAutoscaling"):
            params["no-monitor"] = "true"
        return self._pod(group, "head", "headgroup", params, "127.0.0.1")

    def worker(self, group: int = 0, number: int = 0) -> Object:
        """A pod of a worker group."""
        found = cluster_of(self.owner)["workerGroupSpecs"][group]
        params = {"address": f"{self.head_host}:{GCS_PORT}", **found["rayStartParams"]}
        pod = self._pod(found, "worker", found["groupName"], params, self.head_host, number)
        container = pod["spec"]["containers"][0]
        own = found["template"]["spec"]["containers"][0]["env"]
        pod["spec"]["initContainers"] = [
            {
                "name": "wait-gcs-ready",
                "image": container["image"],
                "command": ["/bin/bash", "-c", "--"],
                "args": [_WAIT_FOR_GCS.format(address=f"{self.head_host}:{GCS_PORT}")],
                "securityContext": container["securityContext"],
                "env": [*own, *self._token_variables(), *_head_variables(self.head_host)],
                "volumeMounts": container["volumeMounts"],
            }
        ]
        return pod

    def submitter(self) -> Object:
        """The pod that submits a RayJob's entrypoint to the head."""
        template = copy.deepcopy(self.owner["spec"]["submitterPodTemplate"])
        container = template["spec"]["containers"][0]
        host = f"{self.head_host}:{DASHBOARD_PORT}"
        address = f"http://{host}"
        url = f"{address}/api/gcs_healthz"
        reply = f"urllib.request.urlopen('{url}', timeout=10).read()"
        healthy = f"python -c \"import urllib.request; exit(0 if b'success' in {reply} else 1)\""
        container["command"] = ["/bin/bash", "-ce", "--"]
        waiting = f'echo "Waiting for Ray Dashboard GCS to become healthy at {address} ..."'
        job, entrypoint = f"--address {address}", self.owner["spec"]["entrypoint"].strip()
        container["args"] = [
            f"until {healthy} >/dev/null 2>&1 ; do {waiting} ; sleep 2 ; done ; "
            f"if ! ray job status {job} {self.job_id} >/dev/null 2>&1 ; then "
            f"ray job submit {job} --no-wait --submission-id {self.job_id} -- {entrypoint} ; fi ; "
            f"ray job logs {job} --follow {self.job_id}"
        ]
        own = _values(PYTHONUNBUFFERED="1", RAY_DASHBOARD_ADDRESS=host, RAY_JOB_SUBMISSION_ID=self.job_id)
        container["env"] = [*container.get("env", ()), *own, *self._token_variables()]
        metadata = {**template["metadata"], "name": self.job_id, "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _pod(
        self, group: Object, role: str, group_name: str, params: dict[str, str], host: str, number: int = 0
    ) -> Object:
        template = copy.deepcopy(group["template"])
        container = template["spec"]["containers"][0]
        ports = {"metrics-export-port": "8080", "dashboard-agent-listen-port": str(AGENT_PORT)}
        redis = {"redis-password": "$REDIS_PASSWORD"} if role == "head" and self._has_redis_password() else {}
        start = start_command(role, {**ports, **start_sizes(container), **params, "block": "true", **redis})
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/dev/shm", "/tmp/ray"} <= mounted, "the operator would add missing volumes"
        container["command"] = ["/bin/bash", "-c", "--"]
        container["args"] = [f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {start}"]
        container["env"] = self._variables(container.get("env", []), role, start, host)
        add_probes(container, role, serves=self.owner["kind"] == "RayService")
        name = f"{self.cluster}-head" if role == "head" else f"{self.cluster}-{group_name}-worker"
        own = {"ray.io/cluster": self.cluster, "ray.io/node-type": role, "ray.io/group": group_name}
        labels = {**template["metadata"]["labels"], **own}
        metadata = {"name": f"{name}-{number}", "namespace": self.namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _has_redis_password(self) -> bool:
        return "redisPassword" in (cluster_of(self.owner).get("gcsFaultToleranceOptions") or {})

    def _token_variables(self) -> list[Object]:
        if cluster_of(self.owner).get("authOptions") != {"mode": "token"}:
            return []
        token = {"secretKeyRef": {"name": self.cluster, "key": TOKEN_KEY}}
        return [*_values(RAY_AUTH_MODE="token"), {"name": "RAY_AUTH_TOKEN", "valueFrom": token}]

    def _variables(self, own: list[Object], role: str, start: str, host: str) -> list[Object]:
        """The manifest's variables, and the operator's. A variable of the manifest is never replaced."""
        fields = {
            "RAY_CLUSTER_NAME": "metadata.labels['ray.io/cluster']", "RAY_CLUSTER_NAMESPACE": "metadata.namespace",
            "RAY_CLOUD_INSTANCE_ID": "metadata.name", "RAY_NODE_TYPE_NAME": "metadata.labels['ray.io/group']",
        }  # fmt: skip
        served = {
            "RAY_timeout_ms_task_wait_for_death_info": "0",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_SERVE_KV_TIMEOUT_S": "5",
        }
        added = [
            *self._cluster_variables(role),
            *self._token_variables(),
            *(_head_variables(host) if role == "worker" else ()),
            *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
            *_values(KUBERAY_GEN_RAY_START_CMD=start, RAY_PORT=str(GCS_PORT)),
            *(_values(**served) if self.owner["kind"] == "RayService" else ()),
            *_values(
                RAY_ADDRESS=f"{host}:{GCS_PORT}",
                RAY_USAGE_STATS_KUBERAY_IN_USE="1",
                RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE="1",
            ),
        ]
        given = {entry["name"] for entry in own}
        return [*own, *(entry for entry in added if entry["name"] not in given)]

    def _cluster_variables(self, role: str) -> list[Object]:
        """Variables of autoscaler v2 and of GCS fault tolerance."""
        spec = cluster_of(self.owner)
        redis = spec.get("gcsFaultToleranceOptions")
        if role == "worker":
            return _values(RAY_gcs_rpc_server_reconnect_timeout_s="600") if redis else []
        found: list[Object] = []
        if spec.get("enableInTreeAutoscaling"):
            version = spec.get("autoscalerOptions", {}).get("version")
            found += _values(RAY_enable_autoscaler_v2=str(version == "v2").lower())
        if redis:
            namespace = redis.get("externalStorageNamespace", "uid-of-the-cluster")
            found += _values(RAY_external_storage_namespace=namespace, RAY_REDIS_ADDRESS=redis["redisAddress"])
            found.append({"name": "REDIS_PASSWORD", **redis["redisPassword"]})
        return found


def _values(**variables: str) -> list[Object]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def _head_variables(host: str) -> list[Object]:
    return _values(FQ_RAY_IP=host, RAY_IP=host.partition(".")[0])


def start_sizes(container: Object) -> dict[str, str]:
    """A container's limits as `ray start` takes them: whole CPUs and GPUs, and bytes. CPUs fall back to the request."""
    limits, requests = container["resources"].get("limits", {}), container["resources"].get("requests", {})
    found = {"num-cpus": limits.get("cpu", requests.get("cpu")), "memory": limits.get("memory")}
    found["num-gpus"] = next((amount for name, amount in sorted(limits.items()) if name.endswith("gpu")), None)
    return {name: str(math.ceil(quantity(value))) for name, value in found.items() if value is not None}


def start_command(role: str, params: dict[str, str]) -> str:
    """`ray start` with its flags in alphabetical order, without those that are `false`."""
    flags = [
        f"--{name}" if value.lower() == "true" else f"--{name}={value}"
        for name, value in sorted(params.items())
        if value.lower() != "false"
    ]
    return " ".join(["ray", "start", *(["--head"] if role == "head" else []), *flags])


def add_probes(container: Object, role: str, *, serves: bool) -> None:
    """Adds the probes for Ray 2.53 and newer that the manifest does not set.

    Args:
        serves: the pod belongs to a RayService, whose workers are ready if their proxy is.
    """
    timeout_s = 5 if role == "head" else 2
    healthy = {"httpGet": {"path": "/api/healthz", "port": AGENT_PORT}}
    times = {"timeoutSeconds": timeout_s, "periodSeconds": 5, "successThreshold": 1}
    container.setdefault("livenessProbe", {**healthy, **times, "initialDelaySeconds": 30, "failureThreshold": 120})
    ready: dict[str, Any] = {**healthy, **times, "initialDelaySeconds": 10, "failureThreshold": 10}
    if serves and role == "worker":
        port = next((p["containerPort"] for p in container["ports"] if p["name"] == "serve"), 8000)
        raylet = _WGET.format(timeout=2, host="localhost", port=AGENT_PORT, path="api/local_raylet_healthz")
        proxy = _WGET.format(timeout=10, host="localhost", port=port, path="-/healthz")
        command = {"exec": {"command": ["bash", "-c", f"{raylet} && {proxy}"]}}
        ready = {**command, **times, "initialDelaySeconds": 10, "failureThreshold": 1}
    container.setdefault("readinessProbe", ready)


def words(pod: Object) -> list[str]:
    """The command of a pod's Ray container, as words."""
    return shlex.split(pod["spec"]["containers"][0]["args"][0].rpartition("; ")[2])
