"""What Ray Serve refuses or ignores, names that lead nowhere, and what we do not want in our own manifests."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import DROP, Case

_HEAD = "spec.headGroupSpec.template.spec"
_APP = f"{_HEAD}.containers[0]"
_WORKER = "spec.workerGroupSpecs[0].template.spec.containers[0]"
_DIGESTS = {"digests": True}


def _serve(rule: str | None, application: str = "", *, before: str = "", imports: bool = False) -> Case:
    """A RayService with one application, written as the inside of a YAML mapping."""
    text = before + "\napplications: [{name: app, " + (application or "import_path: 'json:dumps'") + "}]"
    return Case(rule, "RayService", {"spec.serveConfigV2": text}, {"imports": imports})


def _deployment(rule: str | None, options: str) -> Case:
    return _serve(rule, f"import_path: 'json:dumps', deployments: [{{name: d, {options}}}]")


def _env(rule: str | None, name: str, value: str) -> Case:
    return Case(rule, "RayCluster", {f"{_APP}.env": [{"name": name, "value": value}]})


def _secret(kind: str, name: str, key: str | None = None) -> dict[str, Any]:
    reference = {"name": name} if key is None else {"name": name, "key": key}
    return {kind: reference}


_SERVE = [
    Case("serve/yaml", "RayService", {"spec.serveConfigV2": "applications: ["}),
    Case("serve/yaml", "RayService", {"spec.serveConfigV2": "- applications"}),
    _serve("serve/schema", "route_prefix: /"),
    _serve("serve/schema", "import_path: 'json:dumps', runtime_env: {working_dir: ./here}"),
    _serve("serve/unknown-key", before="proxy: EveryNode"),
    _serve("serve/unknown-key", "import_path: 'json:dumps', route: /a"),
    _deployment("serve/unknown-key", "num_replica: 2"),
    _deployment("serve/unknown-key", "autoscaling_config: {min_replica: 1}"),
    _deployment("serve/unknown-key", "ray_actor_options: {num_gpu: 1}"),
    _serve("serve/route-prefix", "import_path: 'json:dumps', route_prefix: a"),
    _deployment("serve/replicas", "autoscaling_config: {min_replicas: 3, max_replicas: 2}"),
    _deployment("serve/replicas", "autoscaling_config: {min_replicas: 3}"),
    _deployment("serve/replicas", "autoscaling_config: {min_replicas: 1, max_replicas: 2, initial_replicas: 3}"),
    _serve("serve/import-path", "import_path: 'no_such_module:app'", imports=True),
    _serve("serve/import-path", "import_path: 'json:no_such_name'", imports=True),
    _serve("serve/runtime-env", "import_path: 'json:dumps', runtime_env: {env_var: {}}"),
    _deployment("serve/runtime-env", "ray_actor_options: {runtime_env: {pips: []}}"),
    _deployment(None, "num_replicas: auto, autoscaling_config: {min_replicas: 2}, user_config: {free: 1}"),
    _deployment(None, "autoscaling_config: {min_replicas: 0, max_replicas: 4}, ray_actor_options: {num_gpus: 1}"),
    _serve(
        None,
        "import_path: 'json.dumps', args: {anything: [1]}, route_prefix: null",
        before="proxy_location: EveryNode",
        imports=True,
    ),
    Case(None, "RayService", {"spec.serveConfigV2": DROP}),
]

_REFERENCES = [
    Case("reference/missing", "RayCluster", {f"{_HEAD}.serviceAccountName": "raystill-head"}),
    Case("reference/missing", "RayCluster", {f"{_HEAD}.priorityClassName": "important"}),
    Case("reference/missing", "RayCluster", {f"{_HEAD}.imagePullSecrets": [{"name": "registry"}]}),
    Case(
        "reference/missing",
        "RayCluster",
        {f"{_HEAD}.volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "a"}}]},
    ),
    Case(
        "reference/missing",
        "RayCluster",
        {f"{_HEAD}.volumes": [{"name": "a", "projected": {"sources": [_secret("secret", "a")]}}]},
    ),
    Case("reference/missing", "RayCluster", {f"{_APP}.envFrom": [_secret("configMapRef", "a")]}),
    Case(
        "reference/missing",
        "RayCluster",
        {f"{_APP}.env": [{"name": "A", "valueFrom": _secret("secretKeyRef", "a", "b")}]},
    ),
    Case("reference/missing", "RayCluster", {"spec.authOptions": {"mode": "token", "secretName": "a"}}),
    Case(
        "reference/missing",
        "RayCluster",
        {"spec.gcsFaultToleranceOptions.redisPassword.valueFrom": _secret("secretKeyRef", "redis", "password")},
    ),
    Case("reference/missing", "RayJob", {"metadata.labels": {"kueue.x-k8s.io/queue-name": "raystill"}}),
    Case("reference/missing", "RayJob with selector", {"spec.clusterSelector": {"ray.io/cluster": "other"}}),
    Case("reference/missing", "RayJob with selector", {"metadata.namespace": "other"}),
    Case("reference/missing", "RoleBinding", {"roleRef.name": "other"}),
    Case("reference/missing", "RoleBinding", {"subjects[0].name": "other"}),
    Case("reference/missing", "StatefulSet", {"spec.serviceName": "other"}),
    Case("reference/missing", "LocalQueue", {"spec.clusterQueue": "other"}),
    Case("reference/missing", "RayCronJob", {}, {"externals": ()}),
    Case("reference/missing", "incremental RayService", {}, {"externals": ()}),
    Case("reference/defined-twice", "Role", {}, {"beside": "Role"}),
    Case(
        "reference/missing-key",
        "RayCluster",
        {f"{_HEAD}.volumes": [{"name": "a", "configMap": {"name": "raystill", "items": [{"key": "b", "path": "b"}]}}]},
        {"beside": "ConfigMap"},
    ),
    Case(
        "reference/autoscaler-mount",
        "autoscaled RayCluster",
        {"spec.autoscalerOptions.volumeMounts": [{"name": "a", "mountPath": "/a"}]},
    ),
    Case("reference/selects-nothing", "Budget", {"spec.selector.matchLabels": {"app": "other"}}),
    Case("reference/selects-nothing", "Service", {"spec.selector": {"app": "other"}}),
    Case("reference/selects-nothing", "PodMonitor", {"spec.selector.matchLabels": {"ray.io/group": "cpu"}}),
    Case("reference/target-port", "Service", {"spec.ports[0].targetPort": "http"}),
    Case(None, "PodMonitor", {"spec.selector.matchLabels": {"ray.io/cluster": "raystill", "ray.io/group": "gpu"}}),
    Case(None, "RayCluster", {f"{_APP}.envFrom": [{"secretRef": {"name": "a", "optional": True}}]}),
    Case(
        None,
        "RayCluster",
        {f"{_HEAD}.serviceAccountName": "a", f"{_HEAD}.priorityClassName": "b"},
        {"externals": ["ServiceAccount/a", "PriorityClass/b"]},
    ),
    Case(None, "RayCluster", {"spec.authOptions": {"mode": "token"}}),
]

_POLICY = [
    Case("policy/root", "RayCluster", {f"{_APP}.securityContext": DROP}),
    Case("policy/root", "RayCluster", {f"{_APP}.securityContext.runAsUser": 0}),
    Case("policy/root", "Deployment", {"spec.template.spec.securityContext.runAsUser": 0}),
    Case("policy/privileged", "RayCluster", {f"{_APP}.securityContext.privileged": True}),
    Case("policy/privileged", "RayCluster", {f"{_HEAD}.hostNetwork": True}),
    Case("policy/image-tag", "RayCluster", {f"{_APP}.image": "registry.example:5000/app"}),
    Case("policy/image-tag", "RayCluster", {f"{_APP}.image": "registry.example/app:latest"}),
    Case("policy/image-digest", "RayCluster", {f"{_APP}.image": "registry.example/app:1@sha256:0123"}, _DIGESTS),
    _env("policy/literal-secret", "HF_TOKEN", "x"),
    _env("policy/literal-secret", "MODEL", "hf_" + "a" * 34),
    _env("policy/literal-secret", "BROKER", "redis://user:hunter2@redis:6379"),
    Case("policy/literal-secret", "RayCluster", {f"{_APP}.args": ["--key", "sk-" + "a" * 24]}),
    Case("policy/literal-secret", "RayCluster", {"spec.gcsFaultToleranceOptions.redisPassword.value": "hunter2"}),
    Case("policy/literal-secret", "RayJob", {"spec.runtimeEnvYAML": "env_vars: {HF_TOKEN: x}"}),
    Case("policy/literal-secret", "RayJob", {"spec.entrypoint": "OPENAI_API_KEY=x raystill label run.yaml"}),
    Case(
        "policy/literal-secret", "RayCronJob", {"spec.jobTemplate.entrypoint": "raystill submit --env 'HF_TOKEN=x y'"}
    ),
    _serve("policy/literal-secret", "import_path: 'json:dumps', runtime_env: {env_vars: {AWS_SECRET_ACCESS_KEY: x}}"),
    _deployment("policy/literal-secret", "ray_actor_options: {runtime_env: {env_vars: {HF_TOKEN: x}}}"),
    Case(
        "policy/literal-secret",
        "ConfigMap",
        {"data": {"run.yaml": "teacher: {remote: {url: 'https://me:hunter2@host/v1'}}"}},
    ),
    Case(
        "policy/literal-secret", "ConfigMap", {"data": {"job.json": '{"runtime_env": {"env_vars": {"HF_TOKEN": "x"}}}'}}
    ),
    Case("policy/literal-secret", "ConfigMap", {"data": {"REDIS_PASSWORD": "hunter2"}}),
    Case("policy/literal-secret", "RayJob", {"metadata.annotations": {"note": "hf_" + "a" * 34}}),
    Case("policy/secret-object", "Secret", {"stringData": {"a": "b"}}),
    Case(
        "policy/memory-volume",
        "RayCluster",
        {"spec.workerGroupSpecs[0].template.spec.volumes[0].emptyDir.sizeLimit": "24Gi"},
    ),
    Case(
        "policy/memory-volume",
        "RayCluster",
        {"spec.workerGroupSpecs[0].template.spec.volumes[0].emptyDir.sizeLimit": DROP},
    ),
    Case("policy/memory-limit", "RayCluster", {f"{_WORKER}.resources.requests.memory": "12Gi"}),
    Case("policy/memory-limit", "RayCluster", {f"{_APP}.resources": DROP}),
    Case("policy/head-toleration", "RayCluster", {f"{_HEAD}.tolerations": [{"operator": "Exists"}]}),
    Case("policy/submission-mode", "RayJob", {"spec.submissionMode": "SideCarMode"}),
    _env(None, "HF_TOKEN_PATH", "/secrets/token"),
    _env(None, "REDIS_URL", "redis://user:$(REDIS_PASSWORD)@redis:6379"),
    _env(None, "HF_TOKEN", "$(TOKEN)"),
    Case(None, "RayJob", {"spec.runtimeEnvYAML": "env_vars: {HF_TOKEN: '${HF_TOKEN}', HF_HOME: /models}"}),
    Case(
        None,
        "RayJob",
        {"spec.entrypoint": "HF_TOKEN=$TOKEN raystill label run.yaml --set teacher.sampling.max_tokens=64"},
    ),
    Case(None, "ConfigMap", {"data": {"notes": "of env_vars: a: b: c", "keys.requests": "600"}}),
    Case(None, "RayCluster", {f"{_APP}.securityContext": DROP, f"{_HEAD}.securityContext.runAsUser": 1000}),
]

CASES = [*_SERVE, *_REFERENCES, *_POLICY]
