"""Paths and URIs as pyarrow filesystems.

    /data/a.jsonl, file:///data/a.jsonl                                       this machine
    s3://BUCKET/a.jsonl?region=eu-west-1                                      S3, and stores that speak its protocol
    s3://BUCKET/a.jsonl?endpoint_override=store.example:9000&scheme=http
    gs://BUCKET/a.jsonl                                                       Google Cloud Storage
    any other scheme that pyarrow opens                                       hdfs://, abfs://

The query part belongs to the filesystem, not to the file: `join` keeps it at the end. Paths in URIs are percent-encoded.
Credentials come from the environment and files that the AWS and Google tools read. A URI with credentials is refused: URIs stand in
manifests, jobs and logs.

A dead endpoint fails after about a minute: 5 s to connect, 20 s without a byte, three attempts. Inside `object_store_errors`, a missing
bucket, refused credentials and an unreachable endpoint become one UserError each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from pipelines.errors import UserError

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 20.0
"""Longest time of a request without a byte."""
S3_ATTEMPTS = 3
GCS_RETRY_S = 60

_SECRET = re.compile(
    r"(?<=[?&])(sig|[\w-]*(secret|token|password|api[_-]?key|access[_-]?key|account[_-]?key))=[^&\s]*", re.IGNORECASE
)
"""In the query part of a URI, such as `client_secret` and the signature of a shared access of Azure."""
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]*@|" + _SECRET.pattern, re.IGNORECASE)
_S3_TEXT = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
_S3_FLAGS = ("allow_bucket_creation", "force_virtual_addressing", "anonymous")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_REASONS = (
    (
        ("NO_SUCH_BUCKET", "Bucket '"),
        "the bucket does not exist",
        "Create the bucket, or name another.",
    ),
    (
        ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "SIGNATURE_DOES_NOT_MATCH", "UNRECOGNIZED_CLIENT",
         "MISSING_AUTHENTICATION", "EXPIRED_TOKEN", "InvalidAccessKeyId", "SignatureDoesNotMatch", "HTTP status 403",
         "HTTP status 401", "PERMISSION_DENIED", "UNAUTHENTICATED"),
        "the store refuses these credentials",
        "Set the credentials in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), or grant them access.",
    ),
    (
        ("NETWORK_CONNECTION", "curlCode", "REQUEST_TIMEOUT", "Could not connect", "Could not resolve", "UNAVAILABLE"),
        "its endpoint cannot be reached",
        "Check the network, and endpoint_override and region in the URI. Then repeat the command.",
    ),
)  # fmt: skip


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Open the filesystem of a path or URI. Returns it with the path in it, without a trailing slash.

    Filesystems of object stores are cached per process, bucket and options. Threads may share them.

    Raises:
        UserError: no filesystem opens it, or the query part has an unknown option.
    """
    from pyarrow.fs import LocalFileSystem

    if "://" not in uri:
        return LocalFileSystem(), str(Path(uri).expanduser().absolute())
    check_no_credentials(uri)
    scheme, _, rest = uri.partition("://")
    location, _, query = rest.partition("?")
    authority, _, key = location.partition("/")
    path = unquote(key).rstrip("/")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise UserError(uri, "a file:// URI must name a file of this machine", f"Write file:///{location}.")
        if query:
            raise UserError(uri, "a file:// URI must not have a query part", "Write a `?` in a name as %3F.")
        return LocalFileSystem(), f"/{path}"
    if scheme not in ("s3", "gs", "gcs"):
        return _opened(uri)
    bucket = authority.removeprefix("anonymous@")
    if not bucket:
        raise UserError(shown(uri), "it names no bucket", f"Write {scheme}://BUCKET/FOLDER.")
    with object_store_errors(uri):
        filesystem = _s3(authority, query) if scheme == "s3" else _gcs(authority, query)
    return filesystem, f"{bucket}/{path}".rstrip("/")


def check_no_credentials(uri: str) -> None:
    """Raise UserError if a URI names a user and a password, a user of S3, or a secret in its query part."""
    scheme, mark, rest = uri.partition("://")
    user, at, _ = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")
    # abfs://CONTAINER@ACCOUNT and gs://anonymous@BUCKET hold no secret.
    is_uri = mark and re.fullmatch(r"\w[\w+.-]*", scheme)  # else a text of the run file that contains one
    if is_uri and ((at and (":" in user or scheme == "s3")) or _SECRET.search(rest)):
        names = "for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; for Azure: AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET"
        remedy = f"Set them in the environment ({names}), or give the machine a role."
        raise UserError(shown(uri), "credentials in a URI would end in manifests, jobs and logs", remedy)


def join(uri: str, name: str) -> str:
    """Path or URI of a file in a folder: `s3://b/f?region=x` and `a.json` -> `s3://b/f/a.json?region=x`."""
    if "://" not in uri:
        return f"{uri.rstrip('/')}/{name}"
    location, mark, query = uri.partition("?")
    return f"{location.rstrip('/')}/{quote(name)}{mark}{query}"


def ancestor(uri: str, levels: int) -> str:
    """Path or URI `levels` folders up."""
    location, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    for _ in range(levels):
        location = location.rstrip("/").rpartition("/")[0]
    return f"{location or '/'}{mark}{query}"


def shown(text: str) -> str:
    """Remove credentials from a URI, or from all URIs in a text.

    >>> shown("it lies in s3://KEY:SECRET@bucket/run?region=x.")
    'it lies in s3://bucket/run?region=x.'
    """
    return _CREDENTIALS.sub("", text)


@contextmanager
def object_store_errors(uri: str) -> Iterator[None]:
    """Raise UserError for a missing bucket, refused credentials or an unreachable endpoint in the block."""
    try:
        yield
    except OSError as error:
        text = " ".join(str(error).split())
        for marks, rule, remedy in _REASONS:
            if "://" in uri and any(mark in text for mark in marks):
                raise UserError(shown(uri), f"{rule} ({text[:300]})", remedy) from error
        raise


def _opened(uri: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ImportError) as error:
        rule = f"no filesystem opens it ({error})"
        raise UserError(shown(uri), rule, "Use a path, file://, s3:// or gs://.") from error
    return filesystem, path.rstrip("/")


@functools.lru_cache(maxsize=64)
def _s3(authority: str, query: str) -> Any:
    """Open S3 with time limits. FileSystem.from_uri takes none: its requests to a dead endpoint last minutes."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    options: dict[str, str | bool] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _S3_TEXT:
            options[name] = value
        elif name in _S3_FLAGS and value.lower() in _FLAGS:
            options[name] = _FLAGS[value.lower()]
        else:
            known = f"{', '.join(_S3_TEXT)}; true or false: {', '.join(_S3_FLAGS)}"
            raise UserError(f"s3://{authority}?{name}={value}", "not an option of S3", f"Use {known}.")
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = resolve_s3_region(authority)
    return S3FileSystem(
        **options,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        allow_delayed_open=True,  # makes a small file one PUT instead of an upload in parts
    )


@functools.lru_cache(maxsize=64)
def _gcs(authority: str, query: str) -> Any:
    if "retry_limit_seconds" not in query:
        query = f"{query}&retry_limit_seconds={GCS_RETRY_S}".lstrip("&")
    return _opened(f"gs://{authority}/?{query}")[0]
