"""What Pod validation refuses in volumes and in how containers mount them."""

from __future__ import annotations

from typing import Any

from tests.k8s.cases.bases import APP, HEAD, POD, Case, in_worker

_SHM = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
_CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def _volume(rule: str | None, **source: Any) -> Case:
    return Case(
        rule,
        "RayCluster",
        {f"{POD}.volumes": [_SHM, {"name": "extra", **source}]},
        {"externals": ["Secret/a", "ConfigMap/a", "PersistentVolumeClaim/A_b"]},
    )


def _ephemeral(rule: str | None, **claim: Any) -> Case:
    return _volume(rule, ephemeral={"volumeClaimTemplate": {"spec": {**_CLAIM, **claim}}})


def _device(rule: str | None, *paths: str) -> Case:
    volumes = [_SHM, {"name": "disk", "persistentVolumeClaim": {"claimName": "A_b"}}]
    devices = [{"name": "disk", "devicePath": path} for path in paths]
    return Case(
        rule,
        "RayCluster",
        {f"{POD}.volumes": volumes, f"{APP}.volumeDevices": devices},
        {"externals": ["PersistentVolumeClaim/A_b"]},
    )


_MOUNTS = [
    in_worker("pod/mount-without-volume", "volumeMounts", [{"name": "data", "mountPath": "/data"}]),
    Case(
        "pod/mount-path-twice",
        "StatefulSet",
        {
            "spec.template.spec.containers[0].volumeMounts": [
                {"name": "data", "mountPath": "/a"},
                {"name": "data", "mountPath": "/a"},
            ]
        },
    ),
    in_worker("pod/sub-path", "volumeMounts", [{"name": "shm", "mountPath": "/a", "subPath": "../b"}]),
    in_worker("pod/sub-path", "volumeMounts", [{"name": "shm", "mountPath": "/a", "subPath": "b", "subPathExpr": "c"}]),
    in_worker(
        "pod/mount-propagation",
        "volumeMounts",
        [{"name": "shm", "mountPath": "/a", "mountPropagation": "Bidirectional"}],
    ),
    in_worker("pod/value", "volumeMounts", [{"name": "shm", "mountPath": "/a", "mountPropagation": ""}]),
    in_worker(
        "pod/recursive-read-only", "volumeMounts", [{"name": "shm", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]
    ),
    in_worker("pod/volume-device", "volumeDevices", [{"name": "shm", "devicePath": "/dev/a"}]),
    _device("pod/volume-device", "/dev/shm"),
    _device("pod/volume-device", "/dev/../a"),
    _device("pod/volume-device", "/dev/a", "/dev/b"),
    _device("pod/empty", ""),
    _device(None, "/dev/a"),
    Case(
        None, "StatefulSet", {"spec.template.spec.containers[0].volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    ),
]

_VOLUMES = [
    Case("pod/volume-name", "RayCluster", {f"{HEAD}.volumes": [{"name": "a_b"}]}),
    Case("pod/volume-name-twice", "Deployment", {"spec.template.spec.volumes": [{"name": "a"}, {"name": "a"}]}),
    _volume("pod/volume-sources", emptyDir={}, configMap={"name": "a"}),
    _volume("pod/volume-path", configMap={"name": "a", "items": [{"key": "k", "path": "/abs"}]}),
    _volume("pod/volume-path", configMap={"name": "a", "items": [{"key": "k", "path": "..abs"}]}),
    _volume("pod/host-path", hostPath={"path": "/a/../b"}),
    _volume("pod/size-limit", emptyDir={"sizeLimit": "-1"}),
    _volume("pod/size-limit", emptyDir={"sizeLimit": "1e3.5"}),
    _volume("pod/downward-source", downwardAPI={"items": [{"path": "a"}]}),
    _volume("pod/field-path", downwardAPI={"items": [{"path": "a", "fieldRef": {"fieldPath": "spec.nodeName"}}]}),
    _volume("pod/projected-source", projected={"sources": [{"secret": {"name": "a"}, "configMap": {"name": "a"}}]}),
    _volume(
        "pod/projected-path-twice",
        projected={
            "sources": [{kind: {"name": "a", "items": [{"key": "k", "path": "p"}]}} for kind in ("secret", "configMap")]
        },
    ),
    _volume(
        "pod/token-expiration", projected={"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}
    ),
    _volume("pod/empty", secret={}),
    _volume("pod/empty", persistentVolumeClaim={"claimName": ""}),
    _volume("pod/minimum", secret={"secretName": "a", "defaultMode": 0o1000}),
    _volume("pod/host-path", nfs={"server": "a", "path": "data"}),
    _volume(None, projected={"sources": [{}]}),
    _volume(None, persistentVolumeClaim={"claimName": "A_b"}),
    _volume(None, secret={"secretName": "a", "defaultMode": 0o400, "items": [{"key": "k", "path": "a/b"}]}),
    _volume(None),
]

_STORAGE = [
    _volume("pod/volume-source", csi={"driver": "Secrets Store"}),
    _volume("pod/volume-source", csi={"driver": f"{'a' * 60}.csi"}),
    _volume("pod/object-name", csi={"driver": "a.csi", "nodePublishSecretRef": {"name": "A_b"}}),
    _volume("pod/empty", csi={"driver": "a.csi", "nodePublishSecretRef": {}}),
    _volume("pod/volume-source", fc={}),
    _volume("pod/volume-source", fc={"targetWWNs": ["50060e801049cfd1"]}),
    _volume("pod/volume-source", fc={"targetWWNs": ["50060e801049cfd1"], "wwids": ["a"], "lun": 0}),
    _volume("pod/minimum", fc={"targetWWNs": ["50060e801049cfd1"], "lun": 256}),
    _volume("pod/volume-source", iscsi={"targetPortal": "a", "iqn": "foo", "lun": 0}),
    _volume("pod/volume-source", iscsi={"targetPortal": "a", "iqn": "iqn.2001:a", "lun": 0}),
    _volume(
        "pod/volume-source",
        iscsi={"targetPortal": "a", "iqn": "iqn.2001-04.com.example:a", "lun": 0, "chapAuthSession": True},
    ),
    _volume("pod/volume-source", azureDisk={"diskName": "a", "diskURI": "/subscriptions/a"}),
    _volume("pod/value", azureDisk={"diskName": "a", "diskURI": "https://a", "cachingMode": "Write"}),
    _volume("pod/volume-source", flexVolume={"driver": "a/b", "options": {"Kubernetes.io/fsType": "ext4"}}),
    _volume("pod/volume-source", flocker={"datasetName": "a", "datasetUUID": "b"}),
    _volume("pod/volume-source", flocker={"datasetName": "a/b"}),
    _volume("pod/volume-source", quobyte={"registry": "host", "volume": "a"}),
    _volume("pod/volume-source", storageos={"volumeName": "A_b"}),
    _volume("pod/empty", cinder={"volumeID": "a", "secretRef": {"name": ""}}),
    _volume("pod/volume-path", gitRepo={"repository": "https://example.org/a", "directory": "../a"}),
    _volume("pod/minimum", awsElasticBlockStore={"volumeID": "a", "partition": 256}),
    _volume("pod/empty", awsElasticBlockStore={"volumeID": ""}),
    _volume("pod/empty", azureFile={"secretName": "a", "shareName": ""}),
    _volume("pod/empty", cephfs={"monitors": []}),
    _volume("pod/empty", rbd={"monitors": [], "image": "a"}),
    _volume("pod/empty", glusterfs={"endpoints": "", "path": "a"}),
    _volume("pod/empty", gitRepo={"repository": ""}),
    _volume("pod/empty", flexVolume={"driver": ""}),
    _volume("pod/empty", image={"pullPolicy": "Always"}),
    _volume("pod/value", image={"reference": "registry.example/a:1", "pullPolicy": "Sometimes"}),
    _volume(None, csi={"driver": "Secrets-Store.csi.k8s.io", "nodePublishSecretRef": {"name": "a"}}),
    _volume(None, fc={"wwids": ["3600508b400105e210000900000490000"]}),
    _volume(None, iscsi={"targetPortal": "a:3260", "iqn": "eui.02004567a425678d", "lun": 255}),
    _volume(None, azureDisk={"diskName": "a", "diskURI": "/subscriptions/a", "kind": "Managed"}),
    _volume(None, quobyte={"registry": "[fd00::a]:7861,b:7861", "volume": "a"}),
]

_EPHEMERAL = [
    _volume("pod/ephemeral-claim", ephemeral={}),
    _ephemeral("pod/ephemeral-claim", resources={}),
    _ephemeral("pod/ephemeral-claim", accessModes=["ReadWriteOnce", "ReadWriteOncePod"]),
    _ephemeral("pod/value", volumeMode="block"),
    _ephemeral("pod/object-name", storageClassName="A_b"),
    _ephemeral("pod/selector-label", selector={"matchLabels": {"a": "b c"}}),
    _ephemeral("pod/claim-data-source", dataSource={"kind": "VolumeSnapshot", "name": "a"}),
    _volume(
        "pod/claim-metadata", ephemeral={"volumeClaimTemplate": {"metadata": {"name": "scratch"}, "spec": {**_CLAIM}}}
    ),
    _volume(
        "pod/claim-metadata",
        ephemeral={"volumeClaimTemplate": {"metadata": {"labels": {"a": "b c"}}, "spec": {**_CLAIM}}},
    ),
    _ephemeral(None, accessModes=["ReadWriteOncePod"], volumeMode="Block", storageClassName=""),
    _volume(
        None, ephemeral={"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}, "name": ""}, "spec": {**_CLAIM}}}
    ),
]

CASES = [*_MOUNTS, *_VOLUMES, *_STORAGE, *_EPHEMERAL]
