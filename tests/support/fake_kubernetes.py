"""A small API server over HTTP: objects in memory, answers in the shape of kube-apiserver 1.36. Scenes stand in for operator and nodes."""

import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug import Request, Response
from werkzeug.serving import make_server

Object = dict[str, Any]
Scene = Callable[["FakeKubernetes"], object]
KINDS = {
    "v1": "Pod Event Secret ConfigMap PersistentVolumeClaim ServiceAccount Namespace",
    "ray.io/v1": "RayJob RayService RayCluster",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding",
}
_PATH = re.compile(r"/apis?/((?:[\w.-]+/)?v\w+)(?:/namespaces/([\w.-]+)(?=/))?(?:/(\w+))?(?:/([\w.-]+))?(?:/(\w+))?$")


class RefusalError(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: int, reason: str, message: str, *causes: str) -> None:
        details = {"causes": [{"reason": cause} for cause in causes]}
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
        self.status = {**head, "reason": reason, "message": message, "details": details}


class FakeKubernetes:
    """The server's state. Tests set its attributes."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}  # by plural, namespace and name
        self.changes: list[str] = []  # `POST rayjobs NAME`, with ` dry-run`
        self.requests: list[tuple[str, dict[str, str]]] = []  # path and headers
        self.denied: set[tuple[str, str]] = set()  # (verb, plural[/subresource])
        self.refused: dict[str, RefusalError] = {}  # by plural: the answer to a creation; `*`: to all requests
        self.logs: dict[str, list[str]] = {}  # lines by pod; a stream ends after the last one
        self.scenes: list[Scene] = []  # what happens at each read of a RayJob
        self.race: Scene | None = None  # what happens just before a RayJob is created
        self.operator_runs = True
        self._made = 0
        self.put("namespaces", {"metadata": {"name": "raystill"}}, "")

    def put(self, plural: str, found: Object, namespace: str = "raystill") -> Object:
        """Add or replace an object."""
        self._made += 1
        key = plural, namespace, found["metadata"]["name"]
        made = {"uid": f"uid-{self._made}", "creationTimestamp": f"2026-12-01T10:00:{self._made % 60:02d}Z"}
        old = self.objects[key]["metadata"] if key in self.objects else made
        found["metadata"] |= {name: old[name] for name in made} | {"namespace": namespace}
        self.objects[key] = found
        return found

    def all(self, *plurals: str) -> list[Object]:
        """Objects of these kinds, the newest last."""
        return [found for (kind, _, _), found in self.objects.items() if kind in plurals]

    def answer(self, method: str, path: str, query: dict[str, str], body: Object) -> Any:
        """An object, or the lines of a log."""
        if "*" in self.refused:
            raise self.refused["*"]
        ((version, namespace, plural, name, sub),) = _PATH.findall(path)
        if not plural:
            return self._discovery(version)
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get" if name else "list")
        if plural == "selfsubjectaccessreviews":
            right = body["spec"]["resourceAttributes"]
            wanted = right["verb"], f"{right['resource']}/{right['subresource']}".rstrip("/")
            return {**body, "status": {"allowed": wanted not in self.denied}}
        if (verb, f"{plural}/{sub}".rstrip("/")) in self.denied:
            raise RefusalError(403, "Forbidden", f'{plural} "{name}" is forbidden: User "ann" cannot {verb} resource')
        if method != "GET":
            wanted = name or body["metadata"].get("name", "")
            self.changes.append(f"{method} {plural} {wanted}{' dry-run' if 'dryRun' in query else ''}")
        if method == "POST":
            return self._create(plural, namespace, body, dry_run="dryRun" in query)
        if not name:
            return {"kind": "List", "metadata": {}, "items": self._selected(plural, namespace, query)}
        if sub == "log":
            return [line for line in self.logs.get(name, []) if line >= query.get("sinceTime", "")[:19]]
        found = self.objects.get((plural, namespace, name))
        if found is None:
            raise RefusalError(404, "NotFound", f'{plural} "{name}" not found')
        if method == "PATCH":
            found["metadata"] |= body["metadata"]
        elif method == "DELETE":
            self._delete(plural, found, body)
        elif plural == "rayjobs" and self.scenes:
            self.scenes.pop(0)(self)
        return {"kind": "Status" if method == "DELETE" else plural, **found}

    def _discovery(self, version: str) -> Object:
        if version not in KINDS or version in self.refused:
            raise RefusalError(404, "NotFound", "the server could not find the requested resource")
        listed = [{"name": f"{one.lower()}s", "kind": one, "namespaced": True} for one in KINDS[version].split()]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": listed}

    def _create(self, plural: str, namespace: str, body: Object, *, dry_run: bool) -> Object:
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{self._made:05d}"
        if (home := self.objects.get(("namespaces", "", namespace))) is None:
            raise RefusalError(404, "NotFound", f'namespaces "{namespace}" not found')
        if "deletionTimestamp" in home["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise RefusalError(403, "Forbidden", f'{plural} "{name}" is forbidden: {why}', "NamespaceTerminating")
        if plural == "rayjobs" and self.race and not dry_run:
            self.race(self)
        if plural in self.refused:
            raise self.refused[plural]
        if (plural, namespace, name) in self.objects:
            raise RefusalError(409, "AlreadyExists", f'{plural} "{name}" already exists')
        created = {**body, "metadata": {**body["metadata"], "name": name}}
        return created if dry_run else self.put(plural, created, namespace)

    def _selected(self, plural: str, namespace: str, query: dict[str, str]) -> list[Object]:
        labels, fields = (query.get(key, "").split(",") for key in ("labelSelector", "fieldSelector"))
        found = [one for (kind, at, _), one in self.objects.items() if (kind, at) == (plural, namespace)]
        for key, equals, value in (part.partition("=") for part in labels if part):
            has = [(one, one["metadata"].get("labels", {})) for one in found]
            found = [one for one, own in has if key in own and (own[key] == value or not equals)]
        of = [part.partition("=")[2] for part in fields if part.startswith("involvedObject.name=")]
        return [one for one in found if not of or one["involvedObject"]["name"] in of]

    def _delete(self, plural: str, found: Object, options: Object) -> None:
        metadata = found["metadata"]
        if options.get("preconditions", {}).get("uid", metadata["uid"]) != metadata["uid"]:
            raise RefusalError(409, "Conflict", "Precondition failed: UID in precondition")
        if plural.startswith("ray") and not self.operator_runs:
            metadata |= {"deletionTimestamp": "2026-12-01T11:00:00Z", "finalizers": ["ray.io/rayjob-finalizer"]}
            return
        self.objects.pop((plural, metadata["namespace"], metadata["name"]))
        for (kind, _, _), other in list(self.objects.items()):  # the garbage collector, and the operator
            owners = [owner["uid"] for owner in other["metadata"].get("ownerReferences", [])]
            if metadata["uid"] in owners or (plural == "rayjobs" and kind in ("pods", "rayclusters")):
                self._delete(kind, other, {})


@contextmanager
def serving(state: FakeKubernetes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve the state at a URL of this machine."""

    @Request.application
    def application(request: Request) -> Response:
        state.requests.append((request.path, dict(request.headers)))
        try:
            body = json.loads(request.get_data() or b"{}")
            found, code = state.answer(request.method, request.path, request.args.to_dict(), body), 200
        except RefusalError as refusal:
            found, code = refusal.status, refusal.status["code"]
        return Response("".join(f"{line}\n" for line in found) if isinstance(found, list) else json.dumps(found), code)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True, ssl_context=tls)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
