"""What Pod validation refuses in the templates of custom resources and workloads, volumes and containers aside."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import DROP, POD, Case, container, in_pod

_EXPR = {"key": "a", "operator": "In", "values": ["b"]}
_LABELS = {"labels": {"app": "raystill"}}
_APP = {"matchLabels": {"app": "raystill"}}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _metadata(rule: str | None, **metadata: Any) -> Case:
    return Case(rule, "RayCluster", {"spec.workerGroupSpecs[0].template.metadata": {**_LABELS, **metadata}})


def _spread(**more: Any) -> list[dict[str, Any]]:
    return [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", **more}]


def _term(**more: Any) -> dict[str, Any]:
    return {_REQUIRED: [{"topologyKey": "kubernetes.io/hostname", **more}]}


def _required(**more: Any) -> dict[str, Any]:
    return {_REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{**_EXPR, **more}]}]}}


_SCHEDULING = [
    in_pod("pod/toleration", "tolerations", [{"key": "a", "operator": "Exist"}]),
    in_pod("pod/toleration", "tolerations", [{"effect": "NoSchedule"}]),
    in_pod("pod/toleration", "tolerations", [{"key": "a", "value": "b c"}]),
    in_pod("pod/value", "tolerations", [{"key": "a", "operator": "Exists", "effect": "NoScheduling"}]),
    in_pod(
        "pod/toleration-seconds",
        "tolerations",
        [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}],
    ),
    in_pod("pod/node-terms", "affinity.nodeAffinity", {_REQUIRED: {"nodeSelectorTerms": []}}),
    in_pod("pod/minimum", "affinity.nodeAffinity", {_PREFERRED: [{"weight": 101, "preference": {}}]}),
    in_pod("pod/empty", "topologySpreadConstraints", _spread(topologyKey="")),
    in_pod(None, "topologySpreadConstraints", _spread(topologyKey="a b")),
    in_pod("pod/topology-key", "affinity.podAntiAffinity", _term(topologyKey="")),
    in_pod("pod/topology-key", "affinity.podAntiAffinity", _term(topologyKey="a b")),
    in_pod("pod/object-name", "affinity.podAntiAffinity", _term(namespaces=["Bad_NS"])),
    in_pod("pod/spread", "topologySpreadConstraints", _spread(maxSkew=0)),
    in_pod("pod/spread", "topologySpreadConstraints", _spread(whenUnsatisfiable="ScheduleAnyway", minDomains=2)),
    in_pod("pod/value", "topologySpreadConstraints", _spread(whenUnsatisfiable="Never")),
    in_pod("pod/value", "topologySpreadConstraints", _spread(nodeTaintsPolicy="")),
    in_pod("pod/match-label-keys", "topologySpreadConstraints", _spread(matchLabelKeys=["a"])),
    in_pod("pod/match-label-keys", "topologySpreadConstraints", _spread(labelSelector={}, matchLabelKeys=["a b"])),
    in_pod("pod/match-label-keys", "topologySpreadConstraints", _spread(labelSelector=_APP, matchLabelKeys=["app"])),
    in_pod("pod/match-label-keys", "affinity.podAffinity", _term(mismatchLabelKeys=["a"])),
    in_pod("pod/match-label-keys", "affinity.podAffinity", _term(labelSelector={}, matchLabelKeys=["a/b/c"])),
    in_pod(
        "pod/match-label-keys",
        "affinity.podAffinity",
        _term(labelSelector=_APP, matchLabelKeys=["a"], mismatchLabelKeys=["a"]),
    ),
    in_pod(
        "pod/match-label-keys",
        "affinity.podAffinity",
        _term(labelSelector={"matchExpressions": [{**_EXPR, "key": "app"}]}, matchLabelKeys=["app"]),
    ),
    # The server has nothing to add for a key that the Pod's labels lack.
    in_pod(
        None,
        "affinity.podAffinity",
        _term(labelSelector={"matchLabels": {"a": "b"}}, matchLabelKeys=["a"], mismatchLabelKeys=["app"]),
    ),
    in_pod(
        None,
        "tolerations",
        [{"operator": "Exists"}, {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
    ),
]

_SELECTORS = [
    in_pod("pod/selector-label", "nodeSelector", {"a": "b c"}),
    in_pod(
        "pod/selector-operator",
        "topologySpreadConstraints",
        _spread(labelSelector={"matchExpressions": [{**_EXPR, "operator": "Gt"}]}),
    ),
    in_pod(
        "pod/selector-values",
        "topologySpreadConstraints",
        _spread(labelSelector={"matchExpressions": [{**_EXPR, "values": []}]}),
    ),
    in_pod("pod/selector-values", "affinity.nodeAffinity", _required(operator="Exists")),
    in_pod("pod/selector-label", "affinity.nodeAffinity", _required(operator="Gt", values=["-1"])),
    in_pod("pod/selector-label", "affinity.nodeAffinity", _required(values=["b c"])),
    in_pod(
        "pod/object-name",
        "affinity.nodeAffinity",
        {_REQUIRED: {"nodeSelectorTerms": [{"matchFields": [{**_EXPR, "key": "metadata.name", "values": ["A_b"]}]}]}},
    ),
    in_pod(
        None,
        "affinity.nodeAffinity",
        {_PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [{**_EXPR, "values": ["b c"]}]}}]},
    ),
    in_pod(None, "affinity.nodeAffinity", _required(operator="Gt", values=["1"])),
]

_CLASSES = [
    in_pod("pod/priority", "priority", 5),
    in_pod("pod/priority", "preemptionPolicy", "Never"),
    Case("pod/priority", "RayCluster", {f"{POD}.priorityClassName": "system-node-critical", f"{POD}.priority": 5}),
    in_pod("pod/value", "preemptionPolicy", ""),
    in_pod("pod/overhead", "overhead", {"cpu": "250m"}),
    in_pod("pod/name", "runtimeClassName", ""),
    Case(None, "RayCluster", {f"{POD}.priority": 0, f"{POD}.preemptionPolicy": "PreemptLowerPriority"}),
    # What a class of the cluster's own says only the cluster knows.
    Case(
        None,
        "RayCluster",
        {f"{POD}.priorityClassName": "low", f"{POD}.priority": -5, f"{POD}.preemptionPolicy": "Never"},
        {"externals": ["PriorityClass/low"]},
    ),
    Case(
        None,
        "RayCluster",
        {f"{POD}.runtimeClassName": "kata", f"{POD}.overhead": {"cpu": "250m"}},
        {"externals": ["RuntimeClass/kata"]},
    ),
]

_NETWORK = [
    in_pod("pod/dns", "dnsPolicy", "None"),
    in_pod("pod/dns", "dnsConfig.nameservers", ["dns.example"]),
    in_pod("pod/dns", "dnsConfig.nameservers", ["fe80::1%eth0"]),
    in_pod("pod/dns-search", "dnsConfig.searches", ["Bad Search"]),
    in_pod("pod/dns-search", "dnsConfig.searches", ["a.b"] * 33),
    in_pod("pod/dns-search", "dnsConfig.searches", [f"{'a' * 200}.b"] * 11),
    in_pod("pod/empty", "dnsConfig.options", [{"value": "1"}]),
    in_pod("pod/host-alias", "hostAliases", [{"ip": "10.0.0", "hostnames": ["a"]}]),
    in_pod("pod/hostname-override", "hostnameOverride", "A_b"),
    in_pod("pod/hostname-override", "hostnameOverride", "a" * 65),
    Case("pod/hostname-override", "RayCluster", {f"{POD}.hostnameOverride": "a.b", f"{POD}.setHostnameAsFQDN": True}),
    in_pod(None, "hostnameOverride", "gpu.example.org"),
    in_pod(None, "dnsConfig.nameservers", ["10.0.0.10", "fd00::a"]),
    in_pod(None, "dnsConfig.searches", ["_tcp.a_b.example", "example.", "."]),
    in_pod(None, "dnsConfig.options", [{"name": "ndots", "value": "2"}]),
]

_PODS = [
    Case("pod/label", "RayCluster", {"spec.headGroupSpec.template.metadata.labels": {"a": "b c"}}),
    Case("pod/annotation", "RayCluster", {"spec.headGroupSpec.template.metadata.annotations": {"a b": ""}}),
    _metadata("pod/annotation-value", annotations={"controller.kubernetes.io/pod-deletion-cost": "+1"}),
    _metadata("pod/annotation-value", annotations={"seccomp.security.alpha.kubernetes.io/pod": "localhost/../a"}),
    _metadata(
        "pod/annotation-value", annotations={"container.apparmor.security.beta.kubernetes.io/none": "runtime/default"}
    ),
    _metadata("pod/finalizer", finalizers=["foo"]),
    Case("pod/group-name", "RayCluster", {"spec.workerGroupSpecs[0].groupName": "gpu_a"}),
    in_pod("pod/name", "serviceAccountName", "A"),
    in_pod("pod/name", "hostname", "a.b"),
    in_pod("pod/ephemeral-container", "ephemeralContainers", [{"name": "debug", "image": "a:1"}]),
    Case("pod/shared-processes", "RayCluster", {f"{POD}.hostPID": True, f"{POD}.shareProcessNamespace": True}),
    *(
        Case("pod/host-users", "RayCluster", {f"{POD}.hostUsers": False, f"{POD}.{key}": True})
        for key in ("hostNetwork", "hostPID", "hostIPC")
    ),
    in_pod("pod/claim-source", "resourceClaims", [{"name": "a"}]),
    in_pod(
        "pod/claim-source",
        "resourceClaims",
        [{"name": "a", "resourceClaimName": "b", "resourceClaimTemplateName": "c"}],
    ),
    in_pod("pod/name", "resourceClaims", [{"name": "GPU_a", "resourceClaimName": "a"}]),
    in_pod("pod/object-name", "resourceClaims", [{"name": "a", "resourceClaimName": "X_"}]),
    Case(
        "pod/claim-twice",
        "Deployment",
        {"spec.template.spec.resourceClaims": [{"name": "a", "resourceClaimName": name} for name in ("b", "c")]},
    ),
    in_pod("pod/name", "schedulingGates", [{"name": "a b"}]),
    Case("pod/scheduling-gates", "Deployment", {"spec.template.spec.schedulingGates": [{"name": "a.b/c"}] * 2}),
    Case(
        "pod/scheduling-gates",
        "RayCluster",
        {f"{POD}.nodeName": "a", f"{POD}.schedulingGates": [{"name": "example.org/quota"}]},
    ),
    Case("pod/restart-policy", "Deployment", {"spec.template.spec.restartPolicy": "Never"}),
    Case("pod/restart-policy", "Job", {"spec.template.spec.restartPolicy": DROP}),
    Case("pod/restart-policy", "CronJob", {"spec.jobTemplate.spec.template.spec.restartPolicy": "Always"}),
    Case(
        "pod/restart-policy",
        "RayJob",
        {"spec.submitterPodTemplate.spec": {"restartPolicy": "Always", "containers": [container("a")]}},
    ),
    Case(None, "RayJob", {"spec.submitterPodTemplate.spec": {"containers": [container("a")]}}),
    _metadata(
        None,
        annotations={
            "controller.kubernetes.io/pod-deletion-cost": "-100",
            "container.seccomp.security.alpha.kubernetes.io/any": "docker/default",
            "container.apparmor.security.beta.kubernetes.io/ray-worker": "localhost/any",
        },
        finalizers=["example.org/hold", "orphan"],
    ),
    Case(None, "RayCluster", {"spec.workerGroupSpecs[0].groupName": "GPU-a"}),
    in_pod(None, "resourceClaims", [{"name": "a", "resourceClaimTemplateName": "gpu.a"}]),
    in_pod(None, "schedulingGates", [{"name": "example.org/quota"}]),
]

CASES = [*_SCHEDULING, *_SELECTORS, *_CLASSES, *_NETWORK, *_PODS]
