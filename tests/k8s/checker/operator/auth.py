"""Rules of token authentication and of what stands behind alpha gates."""

from __future__ import annotations

from tests.k8s.checker.nodes import get
from tests.k8s.checker.operator.clusters import Cluster, version
from tests.k8s.checker.problem import Findings, rule

RAY = rule("operator/auth-needs-ray", "set rayVersion to the image's Ray, 2.52.0 or later")
K8S_RAY = rule("operator/k8s-auth-needs-ray", "set rayVersion to the image's Ray, 2.55.0 or later")
K8S_SECRET = rule("operator/k8s-auth-with-secret", "drop authOptions.secretName, or enableK8sTokenAuth")
K8S_MODE = rule("operator/k8s-auth-needs-token-mode", "set authOptions.mode: token")
K8S_KIND = rule("operator/k8s-auth-only-raycluster", "drop enableK8sTokenAuth: only a RayCluster takes it")
NETWORK_POLICY = rule(
    "operator/gate-network-policy", "write a NetworkPolicy object: gate RayClusterNetworkPolicy is off by default"
)
TLS = rule("operator/gate-tls", "drop tlsOptions: gate RayClusterMTLS is off by default")
HISTORY = rule(
    "operator/gate-history-server", "drop historyServerOptions: gate RayClusterHistoryServer is off by default"
)


def auth_findings(cluster: Cluster) -> Findings:
    """In: a cluster's spec. Out: authentication that its Ray does not have, or that contradicts itself."""
    token = get(cluster.spec, "authOptions.mode") == "token"
    by_kubernetes = get(cluster.spec, "authOptions.enableK8sTokenAuth") is True
    written = str(cluster.spec.get("rayVersion", ""))
    ray = version(written)
    path = cluster.at("authOptions")
    if token and (ray is None or ray < (2, 52, 0)):
        yield RAY.at(f"{path}.mode", f"token, and rayVersion is {written or 'not set'}")
    if by_kubernetes and not token:
        yield K8S_MODE.at(f"{path}.enableK8sTokenAuth", "true, and mode is not token")
    if by_kubernetes and token:
        if ray is not None and (2, 52, 0) <= ray < (2, 55, 0):
            yield K8S_RAY.at(f"{path}.enableK8sTokenAuth", f"true, and rayVersion is {written}")
        if get(cluster.spec, "authOptions.secretName"):
            yield K8S_SECRET.at(f"{path}.secretName", "set beside enableK8sTokenAuth")


def kubernetes_auth_findings(cluster: Cluster) -> Findings:
    """Authentication by Kubernetes' tokens, which the operator refuses in a RayJob and a RayService."""
    if get(cluster.spec, "authOptions.enableK8sTokenAuth") is True:
        yield K8S_KIND.at(cluster.at("authOptions.enableK8sTokenAuth"), "true outside a RayCluster")


def gate_findings(cluster: Cluster) -> Findings:
    """Fields that the operator refuses while their alpha gate is off, whatever they contain."""
    for field, gate in (("networkPolicy", NETWORK_POLICY), ("tlsOptions", TLS), ("historyServerOptions", HISTORY)):
        if field in cluster.spec:
            yield gate.at(cluster.at(field), "set, and its gate is off")
