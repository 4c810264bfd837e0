"""The API server: one request at a time through the official client, and its refusals as messages with a remedy.

Objects travel as JSON. The client's typed models know neither KubeRay's kinds nor the fields of newer servers.
"""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.environment import kubeconfig_files
from cluster.kubernetes.objects import POD, REVIEW, Kind, Object, name_of
from cluster.session.connection import UnreachableError
from pipelines.errors import RaystillError, UserError, last_line

_MANAGER = "raystill"
_CONNECT_S, _READ_S = 10, 30
_SILENT_S = 20
"""A log that is silent for so long is left, to look at the job."""
_PAGE = 500
_FOREIGN = "something else does: its answer is no object of Kubernetes"
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Returns an object without its content: a Secret's values never reach this process."""


class ApiError(RaystillError):
    """The API server refuses a request. Its answer is a `Status` object."""

    def __init__(self, code: int, reason: str, message: str, causes: tuple[str, ...] = ()) -> None:
        super().__init__(code, reason, message, causes)
        self.code, self.reason, self.message, self.causes = code, reason, message, causes

    def __str__(self) -> str:
        return f"The API server refuses it ({self.code} {self.reason}): {self.message.rstrip('.')}."


class Api:
    """The API server of one context. Every method raises UnreachableError if it does not answer, and ApiError if it refuses."""

    def __init__(self, client: Any) -> None:
        """`client`: kubernetes.client.ApiClient."""
        self._client = client
        parts = urlsplit(client.configuration.host)
        self.server = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        """Without credentials."""
        self._kinds: dict[str, dict[str, Kind]] = {}

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """One object; None if it does not exist."""
        try:
            return self._json("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def exists(self, kind: Kind, namespace: str, name: str) -> bool | None:
        """True if the object exists; None if the user may not know. Reads no content."""
        try:
            self._json("GET", kind.path(namespace, name), accept=_METADATA)
        except ApiError as error:
            if error.code == 404:
                return False
            if error.code == 403:
                return None
            raise
        return True

    def list(self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """The objects of a namespace that match the selectors."""
        found: list[Object] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(_PAGE), "continue": ""}
        while True:
            page = self._json("GET", kind.path(namespace), query=query)
            found += page["items"]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return found

    def create(self, kind: Kind, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object. `dry_run`: the server makes all its checks and keeps nothing. Unknown fields are refused."""
        query = {"fieldManager": _MANAGER, "fieldValidation": "Strict", "dryRun": "All" if dry_run else ""}
        return self._json("POST", kind.path(namespace), query=query, body=body)

    def patch(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        """Merge fields into an object."""
        content = "application/merge-patch+json"
        return self._json(
            "PATCH", kind.path(namespace, name), query={"fieldManager": _MANAGER}, body=body, content=content
        )

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "", missing_ok: bool = True) -> None:
        """Request the deletion of an object, with what it owns. `uid`: of this very object, and of no later one with its name."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", kind.path(namespace, name), body=body)
        except ApiError as error:
            if error.code != 404 or not missing_ok:
                raise

    def may(self, verb: str, kind: Kind, namespace: str, subresource: str = "") -> bool:
        """True if the user has this right."""
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": kind.group,
            "resource": kind.plural,
            "subresource": subresource,
        }
        body = {"apiVersion": REVIEW.api_version, "kind": REVIEW.name, "spec": {"resourceAttributes": attributes}}
        return bool(self._json("POST", REVIEW.path(""), body=body)["status"].get("allowed"))

    def kind(self, api_version: str, name: str) -> Kind | None:
        """A kind that the server knows; None if it does not."""
        if api_version not in self._kinds:
            root = "apis" if "/" in api_version else "api"
            try:
                listed = self._json("GET", f"/{root}/{api_version}")["resources"]
            except ApiError as error:
                if error.code != 404:
                    raise
                listed = []
            self._kinds[api_version] = {
                one["kind"]: Kind(api_version, one["kind"], one["name"], one["namespaced"])
                for one in listed
                if "/" not in one["name"]
            }
        return self._kinds[api_version].get(name)

    def log(self, pod: Object, *, since: str = "", follow: bool = False) -> Iterator[str]:
        """The lines of the log of a pod's first container, each behind its time.

        `since`: the time of a line, which comes again.

        With `follow`, ends with the pod, or after 20 s without a line.
        """
        container = str(pod["spec"]["containers"][0]["name"])  # a mesh may have injected others
        query = {"container": container, "timestamps": "true", "follow": "true" if follow else "", "sinceTime": since}
        path = POD.path(pod["metadata"]["namespace"], name_of(pod)) + "/log"
        with self._errors(), self._send("GET", path, query=query, read_s=_SILENT_S if follow else _READ_S) as response:
            yield from _lines(response)

    def _json(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Object | None = None, accept: str = _JSON,
        content: str = _JSON,
    ) -> Object:  # fmt: skip
        with (
            self._errors(),
            self._send(method, path, query=query, body=body, accept=accept, content=content) as response,
        ):
            found = json.loads(response.read())
        if not isinstance(found, dict) or "kind" not in found:
            raise self._silent(_FOREIGN)
        return found

    @contextmanager
    def _send(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Object | None = None, accept: str = _JSON,
        content: str = _JSON, read_s: int = _READ_S,
    ) -> Iterator[Any]:  # fmt: skip
        """Send one request. Yields urllib3's response, whose content is not read yet."""
        options = [(key, value) for key, value in (query or {}).items() if value]
        headers = {"Accept": accept} | ({"Content-Type": content} if body is not None else {})
        request = self._client.param_serialize(
            method, path, query_params=options, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = self._client.call_api(*request, _request_timeout=(_CONNECT_S, read_s)).response
        try:
            if not 200 <= response.status < 300:
                raise self._refusal(response.status, response.reason, response.read())
            yield response
        finally:
            response.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the client raises into errors of ours."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:  # the client's own, as for a certificate that does not fit
            raise self._silent(str(error.reason)) from error
        except json.JSONDecodeError as error:
            raise self._silent(_FOREIGN) from error
        except (HTTPError, OSError) as error:
            raise self._silent(last_line(error)) from error

    def _silent(self, reason: str) -> UnreachableError:
        rule = f"the API server does not answer ({' '.join(reason.split())})"
        return UnreachableError(f"cluster {self.server}", rule, "Check the network and the kubeconfig's server.")

    def _refusal(self, code: int, reason: str, body: bytes) -> RaystillError:
        """The error for an answer that is no success. Its body is a `Status`, unless a proxy answers."""
        try:
            status = json.loads(body or "{}")
        except json.JSONDecodeError:
            status = {}
        if not isinstance(status, dict) or status.get("kind") != "Status":
            status = {"reason": reason, "message": f"answer {code} without a Status"}
        message = str(status.get("message", ""))
        if code == 401 or (code == 403 and "system:anonymous" in message):
            remedy = "Log in again, or choose another user or --context: `kubectl auth whoami` shows who you are."
            return UserError(f"cluster {self.server}", "it does not accept the kubeconfig's credentials", remedy)
        if code >= 500 or code == 429:
            return UnreachableError(
                f"cluster {self.server}", f"the API server answers {code} {message}", "Try again later."
            )
        causes = tuple(str(one.get("reason", "")) for one in (status.get("details") or {}).get("causes") or [])
        return ApiError(code, str(status.get("reason", reason)), message, causes)


def connect(context: str | None = None) -> Api:
    """The API server of the kubeconfig's context, or of the cluster that this process runs in.

    The kubeconfig is never written, and no error repeats its content: the client's own messages contain whole users, with their tokens.

    Raises:
        UserError: the client is not installed, or there is no usable kubeconfig.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise UserError(
            "raystill k8s", "the package kubernetes is not installed", "Run `pip install 'raystill[k8s]'`."
        ) from error
    configuration, files = client.Configuration(), kubeconfig_files()
    if files and not any(Path(file).expanduser().is_file() for file in files.split(os.pathsep)):
        raise UserError(f"KUBECONFIG {files}", "there is no such file", "Correct it, or unset it for ~/.kube/config.")
    if not files and context:
        raise UserError(f"--context {context}", "there is no kubeconfig to find it in", "Set KUBECONFIG.")
    configuration.retries = False  # a request that creates is not repeated; what polls tries again
    try:
        if not files:
            config.load_incluster_config(configuration)
            return Api(client.ApiClient(configuration))
        with tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
            config.load_kube_config(files, context, configuration, persist_config=False, temp_file_path=scratch)
            connected = client.ApiClient(configuration)
            _load_certificates(connected)
    except Exception as error:  # noqa: BLE001 - whatever its loader raises for a malformed file
        if not files:
            remedy = "Set KUBECONFIG, or put one at ~/.kube/config."
            raise UserError("kubeconfig", "no such file exists, and this process runs in no pod", remedy) from None
        what = f"its context {context} or what that names" if context else "its current context or what that names"
        rule = f"{what} is missing or malformed ({type(error).__name__})"
        remedy = "Compare `kubectl config view`; `kubectl config get-contexts` lists them."
        raise UserError(f"kubeconfig {files}", rule, remedy) from None
    return Api(connected)


def _load_certificates(client: Any) -> None:
    """Read the kubeconfig's certificates now: their temporary files do not outlive the call of `connect`."""
    from urllib3.util.ssl_ import create_urllib3_context

    settings = client.configuration
    tls = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE)
    if settings.ssl_ca_cert:
        tls.load_verify_locations(settings.ssl_ca_cert)
    else:
        tls.load_default_certs()
    if settings.cert_file:
        tls.load_cert_chain(settings.cert_file, settings.key_file)
    options = client.rest_client.pool_manager.connection_pool_kw
    for name in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
        options.pop(name, None)
    options["ssl_context"] = tls


def _lines(response: Any) -> Iterator[str]:
    """Lines of a streamed answer, the last one without its end too. A silent stream ends."""
    from urllib3.exceptions import ReadTimeoutError

    rest = b""
    try:
        for part in response.stream(2**16, decode_content=True):
            *lines, rest = (rest + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
    except ReadTimeoutError:
        return
    if rest:
        yield rest.decode(errors="replace")
