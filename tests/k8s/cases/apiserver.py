"""What an API server refuses: custom resources by their schema, Kubernetes' own kinds by their validation."""

from __future__ import annotations

from tests.k8s.cases.bases import DROP, Case

_SPEC = "spec.headGroupSpec.template.spec"
_HEAD = f"{_SPEC}.containers[0]"
_RULE = {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}

_OWNER = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "a", "uid": "b"}

CASES = [
    Case("apiserver/unknown-kind", "RayCluster", {"kind": "RayClusters"}),
    Case("apiserver/unknown-kind", "RayCluster", {"apiVersion": "ray.io/v2"}),
    Case("apiserver/unknown-kind", "Deployment", {"apiVersion": "extensions/v1beta1"}),
    Case("apiserver/unknown-kind", "Budget", {"apiVersion": "policy.example.com/v1"}),
    Case("apiserver/unknown-field", "RayCluster", {"spec.headGroupSpec.template.spec.container": []}),
    Case("apiserver/unknown-field", "RayCluster", {"spec.workerGroupSpec": []}),
    Case("apiserver/unknown-field", "RayCluster", {"metadata.lables": {"a": "b"}}),
    Case("apiserver/unknown-field", "RayCluster", {"status.unheard": "of"}),
    Case("apiserver/unknown-field", "Deployment", {"spec.template.spec.containers[0].volumMounts": []}),
    Case("apiserver/unknown-field", "PodMonitor", {"spec.podMetricsEndpoints[0].intervall": "15s"}),
    Case("apiserver/type", "RayCluster", {"spec.headGroupSpec.rayStartParams.num-cpus": 0}),
    Case("apiserver/type", "RayCluster", {f"{_HEAD}.resources.limits.memory": 2**63}),
    Case("apiserver/type", "RayCluster", {f"{_SPEC}.terminationGracePeriodSeconds": 1e18}),
    Case("apiserver/type", "RayCluster", {"spec.enableInTreeAutoscaling": "true"}),
    Case("apiserver/type", "RayCluster", {"spec.workerGroupSpecs[0].replicas": 1.5}),
    Case("apiserver/type", "RayCluster", {f"{_HEAD}.resources.requests.cpu": 0.5}),
    Case("apiserver/type", "RayCluster", {"metadata.labels": {"version": 1}}),
    Case("apiserver/type", "RayCluster", {"spec.workerGroupSpecs": [None]}),
    Case("apiserver/type", "ConfigMap", {"data": {"replicas": 1}}),
    Case("apiserver/required", "RayCluster", {"spec.headGroupSpec": DROP}),
    Case("apiserver/required", "RayCluster", {"spec.headGroupSpec": None}),
    Case("apiserver/required", "RayCluster", {"spec.workerGroupSpecs[0].groupName": DROP}),
    Case("apiserver/required", "RayCluster", {f"{_HEAD}.volumeMounts": [{"name": "a"}]}),
    Case("apiserver/required", "Deployment", {"spec.template": DROP}),
    Case("apiserver/enum", "RayCluster", {"spec.upgradeStrategy.type": "Rolling"}),
    Case("apiserver/enum", "RayCluster", {"spec.gcsFaultToleranceOptions.backend": "etcd"}),
    Case("apiserver/enum", "PodMonitor", {"spec.podMetricsEndpoints[0].scheme": "ftp"}),
    Case("apiserver/pattern", "RayCluster", {f"{_HEAD}.resources.limits.memory": "8 Gi"}),
    Case("apiserver/pattern", "RayCluster", {f"{_HEAD}.resources.limits.memory": "8Gi\n"}),
    Case("apiserver/range", "RayCluster", {"spec.workerGroupSpecs[0].maxReplicas": 2**31}),
    Case("apiserver/range", "RayJob", {"spec.preRunningDeadlineSeconds": 0}),
    Case("apiserver/range", "RayService", {"spec.rayClusterDeletionDelaySeconds": -1}),
    Case("apiserver/length", "RayCronJob", {"spec.timeZone": ""}),
    Case("apiserver/length", "RayJob", {"spec.deletionStrategy.deletionRules": []}),
    Case("apiserver/format", "RayCluster", {"metadata.creationTimestamp": "yesterday"}),
    Case("apiserver/format", "RayCluster", {"metadata.creationTimestamp": "2026-01-31 12:00:00Z"}),
    Case("apiserver/format", "RayCluster", {"metadata.creationTimestamp": "2026-02-31T12:00:00Z"}),
    Case(
        "apiserver/duplicate-key",
        "RayCluster",
        {f"{_HEAD}.env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
    ),
    Case(
        "apiserver/duplicate-key",
        "RayCluster",
        {f"{_HEAD}.ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "TCP"}]},
    ),
    Case("apiserver/duplicate-key", "RayCluster", {f"{_SPEC}.volumes": [{"name": "a"}, {"name": "a"}]}),
    Case(
        "apiserver/duplicate-item",
        "RayCluster",
        {f"{_HEAD}.restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1, 1]}}]},
    ),
    Case("apiserver/cel", "RayCluster", {"spec.managedBy": "me"}),
    Case("apiserver/cel", "RayJob", {"spec.deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}),
    Case(
        "apiserver/cel", "RayCronJob", {"spec.jobTemplate.deletionStrategy.deletionRules": [{**_RULE, "condition": {}}]}
    ),
    Case(
        "apiserver/cel",
        "RayJob",
        {
            "spec.deletionStrategy.deletionRules": [
                {**_RULE, "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}
            ]
        },
    ),
    Case("apiserver/name", "RayCluster", {"metadata.name": "Raystill"}),
    Case("apiserver/name", "RayCluster", {"metadata.name": DROP}),
    Case("apiserver/name", "RayCluster", {"metadata": DROP}),
    Case("apiserver/name", "RayCluster", {"metadata.generateName": "Raystill-"}),
    Case("apiserver/name", "RayCluster", {"metadata.name": DROP, "metadata.generateName": "raystill."}),
    Case("apiserver/name", "Service", {"metadata.name": "1st"}),
    Case("apiserver/name", "Role", {"metadata.name": "a/b"}),
    Case("apiserver/namespace", "RayCluster", {"metadata.namespace": "a.b"}),
    Case("apiserver/label", "RayCluster", {"metadata.labels": {"a/b/c": ""}}),
    Case("apiserver/label", "RayCluster", {"metadata.labels": {"a": "x" * 64}}),
    Case("apiserver/annotation", "RayCluster", {"metadata.annotations": {"a b": ""}}),
    Case("apiserver/annotation", "RayCluster", {"metadata.annotations": {"a": "x" * (256 * 1024)}}),
    Case("apiserver/finalizer", "RayCluster", {"metadata.finalizers": ["a b"]}),
    Case("apiserver/owner", "RayCluster", {"metadata.ownerReferences": [{"kind": "RayJob", "name": "a"}]}),
    Case("apiserver/owner", "RayCluster", {"metadata.ownerReferences": [{**_OWNER, "apiVersion": "ray.io/v1/RayJob"}]}),
    Case(
        "apiserver/owner", "RayCluster", {"metadata.ownerReferences": [{**_OWNER, "apiVersion": "v1", "kind": "Event"}]}
    ),
    Case("apiserver/finalizer", "RayCluster", {"metadata.finalizers": ["orphan", "foregroundDeletion"]}),
    Case("apiserver/workload-selector", "Deployment", {"spec.selector": {"matchLabels": {"app": "other"}}}),
    Case("apiserver/workload-selector", "Deployment", {"spec.selector": {}}),
    Case(
        "apiserver/selector-syntax",
        "Budget",
        {"spec.selector": {"matchExpressions": [{"key": "app", "operator": "Is"}]}},
    ),
    Case("apiserver/negative-count", "Deployment", {"spec.replicas": -1}),
    Case("apiserver/disruption-budget", "Budget", {"spec.maxUnavailable": 1}),
    Case("apiserver/disruption-budget", "Budget", {"spec.minAvailable": "half"}),
    Case("apiserver/disruption-budget", "Budget", {"spec.minAvailable": "101%"}),
    Case("apiserver/cron-schedule", "CronJob", {"spec.schedule": "* * * *"}),
    Case("apiserver/choice", "Service", {"spec.type": "Loadbalancer"}),
    Case(
        "apiserver/rolling-update",
        "Deployment",
        {"spec.strategy.rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}},
    ),
    Case("apiserver/port", "Service", {"spec.ports[0].port": 0}),
    Case("apiserver/port", "NetworkPolicy", {"spec.ingress[0].ports[0].endPort": 80}),
    Case("apiserver/service-ports", "Service", {"spec.ports": []}),
    Case("apiserver/service-ports", "Service", {"spec.ports": [{"port": 1}, {"port": 2}]}),
    Case("apiserver/service-ports", "Service", {"spec.ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}),
    Case("apiserver/service", "Service", {"spec.type": "ExternalName"}),
    Case("apiserver/access-modes", "Claim", {"spec.accessModes": ["ReadWriteAll"]}),
    Case("apiserver/access-modes", "Claim", {"spec.accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}),
    Case("apiserver/access-modes", "StatefulSet", {"spec.volumeClaimTemplates[0].spec.accessModes": []}),
    Case("apiserver/storage-request", "Claim", {"spec.resources": DROP}),
    Case("apiserver/access-rule", "Role", {"rules[0].verbs": []}),
    Case("apiserver/access-rule", "Role", {"rules[0].apiGroups": DROP}),
    Case(
        "apiserver/subject",
        "RoleBinding",
        {"kind": "ClusterRoleBinding", "roleRef.kind": "ClusterRole", "subjects[0].namespace": DROP},
    ),
    Case("apiserver/network-peer", "NetworkPolicy", {"spec.ingress[0].from[0].ipBlock": {"cidr": "10.0.0.0/8"}}),
    Case("apiserver/network-peer", "NetworkPolicy", {"spec.ingress[0].from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}),
    Case("apiserver/network-peer", "NetworkPolicy", {"spec.ingress[0].from": [{}]}),
    Case("apiserver/data-key", "ConfigMap", {"data": {"a/b": "c"}}),
    Case("apiserver/base64", "Secret", {"data": {"a": "???"}}),
    # Accepted: what a plain JSON schema check, or a guess, would refuse.
    Case(
        None, "RayCluster", {"spec.workerGroupSpecs[0].minReplicas": None, "spec.workerGroupSpecs[0].maxReplicas": DROP}
    ),
    Case(None, "RayCluster", {"spec.workerGroupSpecs[0].replicas": 1.0, f"{_HEAD}.resources.requests.cpu": 2}),
    Case(None, "RayCluster", {"spec.headGroupSpec.serviceType": None, "status": {"desiredCPU": None}}),
    Case(
        None, "RayCluster", {"spec.headGroupSpec.rayStartParams.num-gpus": None, f"{_HEAD}.resources.limits.cpu": None}
    ),
    Case(None, "RayCluster", {"metadata.name": DROP, "metadata.generateName": "raystill-"}),
    Case(None, "RayCluster", {"metadata.name": DROP, "metadata.generateName": "raystill_-"}),
    Case(
        None,
        "RayCluster",
        {"metadata.creationTimestamp": "2026-01-31T12:00:00.5+01:00", "metadata.ownerReferences": [_OWNER]},
    ),
    Case(None, "RayCluster", {f"{_HEAD}.ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}]}),
    Case(None, "RayCluster", {"spec.managedBy": "kueue.x-k8s.io/multikueue", "spec.workerGroupSpecs": None}),
    Case(None, "Service", {"spec.type": "ExternalName", "spec.externalName": "example.com", "spec.ports": []}),
    Case(None, "Role", {"metadata.name": "system:raystill"}),
    Case(None, "RoleBinding", {"subjects[0].namespace": DROP}),
    Case(None, "ConfigMap", {"binaryData": {"a": "YWJj\nZGVm\n"}}),
    Case(
        None,
        "NetworkPolicy",
        {"spec.ingress[0].from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]},
    ),
]
