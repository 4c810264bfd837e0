"""Pods that KubeRay creates for our clusters: start commands, variables, probes and submitters."""

import copy

import pytest

from tests.support.k8s.kuberay_pods import RayPods, words
from tests.support.k8s.rendering import OVERLAYS, Object, needs_kustomize, overlay

pytestmark = needs_kustomize
HEAD = "raystill-students-x7k2p-head-svc.raystill.svc.cluster.local"


def ray_objects(name: str) -> list[Object]:
    return [found for found in overlay(name) if found["apiVersion"].startswith("ray.io/")]


def students(name: str) -> RayPods:
    (service,) = (found for found in ray_objects(name) if found["kind"] == "RayService")
    return RayPods(copy.deepcopy(service))  # tests change it, and the rendered one is cached


def variables(pod: Object) -> Object:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize(("name", "sizes"), [("dev-cpu", "--num-cpus=4"), ("prod-gpu", "--num-cpus=8 --num-gpus=1")])
def test_start_commands_pass_limits_to_ray(name: str, sizes: str) -> None:
    pods = students(name)
    memory = {"dev-cpu": (6 << 30, 12 << 30), "prod-gpu": (16 << 30, 64 << 30)}[name]
    ports = "--metrics-export-port=8080"
    redis = " --redis-password=$REDIS_PASSWORD" if name == "prod-gpu" else ""
    assert pods.head()["spec"]["containers"][0]["args"] == [
        "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head --block --dashboard-agent-listen-port=52365 "
        f"--dashboard-host=0.0.0.0 --memory={memory[0]} {ports} --no-monitor --num-cpus=0{redis}"
    ]
    assert pods.worker()["spec"]["containers"][0]["args"] == [
        f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; ray start --address={HEAD}:6379 --block "
        f"--dashboard-agent-listen-port=52365 --memory={memory[1]} {ports} {sizes}"
    ]


@pytest.mark.parametrize("name", OVERLAYS)
def test_ray_start_parses_every_command(name: str) -> None:
    from ray.scripts.scripts import start

    for found in ray_objects(name):
        pods = RayPods(found)
        for pod in (pods.head(), pods.worker()):
            program, command, *flags = words(pod)
            assert (program, command) == ("ray", "start")
            given = start.make_context("start", flags).params
            assert given["block"]
            assert given["head"] is (pod["metadata"]["labels"]["ray.io/node-type"] == "head")


def test_head_and_worker_get_token_and_addresses() -> None:
    pods = students("dev-cpu")
    head, worker = variables(pods.head()), variables(pods.worker())
    token = {"secretKeyRef": {"name": "raystill-students-x7k2p", "key": "auth_token"}}
    for found in (head, worker):
        assert found["RAY_AUTH_MODE"] == "token"
        assert found["RAY_AUTH_TOKEN"] == token
        assert found["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == "300"
        assert found["RAY_timeout_ms_task_wait_for_death_info"] == "0"
    assert head["RAY_enable_autoscaler_v2"] == "true"
    assert (head["RAY_ADDRESS"], worker["RAY_ADDRESS"]) == ("127.0.0.1:6379", f"{HEAD}:6379")
    assert (worker["FQ_RAY_IP"], worker["RAY_IP"]) == (HEAD, "raystill-students-x7k2p-head-svc")
    waiting = pods.worker()["spec"]["initContainers"][0]
    assert f"ray health-check --address {HEAD}:6379" in waiting["args"][0]
    assert {"name": "RAY_AUTH_TOKEN", "valueFrom": token} in waiting["env"]
