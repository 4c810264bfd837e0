"""A small API server over HTTP: objects in memory, answers in the shape of kube-apiserver 1.36, and scenes of what operator and nodes do.

Verdicts are in the words that real servers answered with. Tests set its attributes, and read `requests`.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Object = dict[str, Any]
Scene = Callable[["FakeKubernetes"], None]
KINDS = {
    "v1": {"pods": "Pod", "events": "Event", "secrets": "Secret", "configmaps": "ConfigMap", "services": "Service",
           "persistentvolumeclaims": "PersistentVolumeClaim", "serviceaccounts": "ServiceAccount", "namespaces": "Namespace"},
    "ray.io/v1": {"rayjobs": "RayJob", "rayservices": "RayService", "rayclusters": "RayCluster"},
    "authorization.k8s.io/v1": {"selfsubjectaccessreviews": "SelfSubjectAccessReview"},
    "scheduling.k8s.io/v1": {"priorityclasses": "PriorityClass"},
    "rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
}  # fmt: skip
GLOBAL = ("namespaces", "selfsubjectaccessreviews", "priorityclasses")
_PATH = re.compile(r"/apis?/((?:[\w.-]+/)?v\w+)(?:/namespaces/([\w.-]+)(?=/))?/([\w]+)(?:/([\w.-]+))?(?:/(\w+))?")


class RefusalError(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
            "details": details, "code": code,
        }  # fmt: skip


class FakeKubernetes:
    """The server's state."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        """By plural, namespace and name."""
        self.requests: list[str] = []
        """Such as `POST rayjobs raystill-svamp-label-1f2e3d4c`, with ` dry-run`. Reads are left out."""
        self.headers: list[dict[str, str]] = []
        self.lines: list[str] = []
        """Of all requests: headers, and path with query."""
        self.denied: set[tuple[str, str]] = set()
        """(verb, plural[/subresource]) that the user may not."""
        self.unknown_fields: list[str] = []
        """Fields that its CRDs do not have."""
        self.refused: dict[str, RefusalError] = {}
        """By plural: what the creation of such an object is answered with."""
        self.refused_all: RefusalError | None = None
        self.logs: dict[str, list[str]] = {}
        """Lines by pod. None of them is longer than a follow: the stream ends after the last."""
        self.scenes: list[Scene] = []
        """What happens next: one at each read of the RayJob."""
        self.race: Scene | None = None
        """What happens just before a RayJob is created."""
        self.operator_runs = True
        self.kuberay = True
        self._version = 0
        self.put("namespaces", {"metadata": {"name": "raystill"}, "status": {"phase": "Active"}}, "")

    def put(self, plural: str, found: Object, namespace: str = "raystill") -> Object:
        """Add or replace an object."""
        self._version += 1
        metadata = found["metadata"]
        if namespace:
            metadata["namespace"] = namespace
        metadata.setdefault("uid", f"uid-{self._version}")
        metadata.setdefault("creationTimestamp", f"2026-12-01T10:00:{self._version % 60:02d}Z")
        metadata["resourceVersion"] = str(self._version)
        kind, version = next((kinds[plural], version) for version, kinds in KINDS.items() if plural in kinds)
        self.objects[plural, namespace, metadata["name"]] = {"apiVersion": version, "kind": kind} | found
        return found

    def one(self, plural: str) -> Object:
        """The only object of a kind."""
        (found,) = self.all(plural)
        return found

    def newest(self, plural: str) -> Object:
        """The object of a kind that was created last."""
        return self.all(plural)[-1]

    def all(self, plural: str) -> list[Object]:
        return [found for (kind, _, _), found in self.objects.items() if kind == plural]

    def answer(self, method: str, path: str, query: dict[str, str], body: Object, accept: str) -> Any:
        """The body of an answer: an object, or the lines of a log."""
        if self.refused_all:
            raise self.refused_all
        version, namespace, plural, name, sub = _parsed(path)
        if not plural:
            return self._discovery(version)
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get" if name else "list")
        if plural == "selfsubjectaccessreviews":
            return body | {"status": {"allowed": self._right(body["spec"]["resourceAttributes"]) not in self.denied}}
        if (verb, "/".join(filter(None, (plural, sub)))) in self.denied:
            at = f' in API group "{version.rpartition("/")[0]}" in the namespace "{namespace}"'
            raise RefusalError(
                403, "Forbidden", f'{plural} "{name}" is forbidden: User "ann" cannot {verb} resource "{plural}"{at}'
            )
        if method != "GET":
            self.requests.append(
                " ".join([method, plural, name or _wanted(body), *(["dry-run"] if query.get("dryRun") else [])])
            )
        if sub == "log":
            since = query.get("sinceTime", "")
            return [line for line in self.logs.get(name, []) if line >= since[:19]]
        if method == "POST":
            if plural == "rayjobs" and self.race and not query.get("dryRun"):
                self.race(self)
            return self._create(plural, namespace, body, dry_run=bool(query.get("dryRun")))
        if method == "GET" and not name:
            return {
                "kind": "List",
                "apiVersion": version,
                "metadata": {},
                "items": self._selected(plural, namespace, query),
            }
        if method == "GET" and plural == "rayjobs" and self.scenes and (plural, namespace, name) in self.objects:
            self.scenes.pop(0)(self)
        found = self._found(plural, namespace, name)
        if method == "PATCH":
            found["metadata"] |= body["metadata"]
        if method == "DELETE":
            self._delete(plural, namespace, found, body)
        return {"kind": "PartialObjectMetadata", "metadata": found["metadata"]} if "PartialObject" in accept else found

    def _discovery(self, version: str) -> Object:
        if version not in KINDS or (version == "ray.io/v1" and not self.kuberay):
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        listed = [
            {"name": plural, "kind": kind, "namespaced": plural not in GLOBAL}
            for plural, kind in KINDS[version].items()
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": listed}

    @staticmethod
    def _right(attributes: Object) -> tuple[str, str]:
        return attributes["verb"], "/".join(filter(None, (attributes["resource"], attributes["subresource"])))

    def _found(self, plural: str, namespace: str, name: str) -> Object:
        if (found := self.objects.get((plural, namespace, name))) is None:
            raise RefusalError(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)
        return found

    def _create(self, plural: str, namespace: str, body: Object, *, dry_run: bool) -> Object:
        home = self.objects.get(("namespaces", "", namespace))
        if home is None:
            raise RefusalError(
                404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces"
            )
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{self._version:05d}"
        if "deletionTimestamp" in home["metadata"]:
            message = f'{plural} "{name}" is forbidden: unable to create new content in namespace {namespace} because it is being terminated'
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise RefusalError(403, "Forbidden", message, causes=[cause])
        if plural == "rayjobs" and self.unknown_fields:
            unknown = ", ".join(f'unknown field "{field}"' for field in self.unknown_fields)
            text = f'RayJob in version "v1" cannot be handled as a RayJob: strict decoding error: {unknown}'
            raise RefusalError(400, "BadRequest", text)
        if plural in self.refused and (dry_run or plural != "rayjobs"):
            raise self.refused[plural]
        if (plural, namespace, name) in self.objects:
            raise RefusalError(409, "AlreadyExists", f'{plural} "{name}" already exists', name=name, kind=plural)
        created = json.loads(json.dumps(body))
        created["metadata"]["name"] = name
        return created if dry_run else self.put(plural, created, namespace)

    def _selected(self, plural: str, namespace: str, query: dict[str, str]) -> list[Object]:
        labels = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
        fields = [part.partition("=") for part in query.get("fieldSelector", "").split(",") if part]
        return [
            found for (kind, home, _), found in self.objects.items()
            if (kind, home) == (plural, namespace)
            and all(
                (found["metadata"].get("labels") or {}).get(key) == value if sign else key in (found["metadata"].get("labels") or {})
                for key, sign, value in labels
            )
            and all(_field(found, key) == value for key, _, value in fields)
        ]  # fmt: skip

    def _delete(self, plural: str, namespace: str, found: Object, options: Object) -> None:
        metadata = found["metadata"]
        wanted = options.get("preconditions", {}).get("uid", metadata["uid"])
        if wanted != metadata["uid"]:
            text = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {metadata['uid']}"
            raise RefusalError(
                409, "Conflict", f'Operation cannot be fulfilled on {plural} "{metadata["name"]}": {text}'
            )
        if plural in ("rayjobs", "rayservices", "rayclusters") and not self.operator_runs:
            metadata |= {"deletionTimestamp": "2026-12-01T11:00:00Z", "finalizers": ["ray.io/rayjob-finalizer"]}
            return
        self.objects.pop((plural, namespace, metadata["name"]))
        if plural == "rayjobs":  # the operator ends its cluster
            self.objects = {key: other for key, other in self.objects.items() if key[0] not in ("pods", "rayclusters")}
        for (kind, home, _), other in list(self.objects.items()):  # the garbage collector
            if any(owner["uid"] == metadata["uid"] for owner in other["metadata"].get("ownerReferences", [])):
                self._delete(kind, home, other, {})


def _parsed(path: str) -> tuple[str, str, str, str, str]:
    """Version, namespace, plural, name and subresource. Without a plural: discovery."""
    if re.fullmatch(r"/apis?/((?:[\w.-]+/)?v\w+)", path):
        return path.split("/", 2)[2], "", "", "", ""
    match = _PATH.fullmatch(path)
    if match is None:
        raise RefusalError(404, "NotFound", "the server could not find the requested resource")
    version, namespace, plural, name, sub = (part or "" for part in match.groups())
    return version, namespace, plural, name, sub


def _wanted(body: Object) -> str:
    return str(body["metadata"].get("name") or body["metadata"].get("generateName", ""))


def _field(found: Object, key: str) -> Any:
    for part in key.split("."):
        found = found.get(part, {})
    return found


@contextmanager
def serving(state: FakeKubernetes) -> Iterator[str]:
    """Serve the state at a URL of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def _answer(self) -> None:
            size, url = int(self.headers.get("Content-Length") or 0), urlsplit(self.path)
            body = json.loads(self.rfile.read(size) or b"{}")
            state.headers.append(dict(self.headers))
            state.lines.append(self.path)
            try:
                found = state.answer(
                    self.command, url.path, dict(parse_qsl(url.query)), body, self.headers.get("Accept", "")
                )
                code = 201 if self.command == "POST" else 200
            except RefusalError as refusal:
                found, code = refusal.status, refusal.status["code"]
            text = "".join(f"{line}\n" for line in found) if isinstance(found, list) else json.dumps(found)
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(found, list) else "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - names of http.server

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
