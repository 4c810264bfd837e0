"""An S3 server in a process of its own, for tests: moto's, which checks signatures and keeps parts apart until an upload is completed.

    def test_x(s3: Bucket) -> None:          # a bucket of its own; the server is started once per session
        Store(s3.uri("labels")).write("a", b"x")
        assert s3.keys() == ["labels/a"]

    with running_server(folder, "198.18.0.1") as server:      # elsewhere than on the loopback, for clusters with addresses of their own
        bucket = server.bucket()

The fixture's credentials are in the environment, where child processes and Ray workers started afterwards find them. Objects are in the
server's memory: it is killed by its process id at the end, and they are gone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_START_S = 60
_REGION = "us-east-1"
_ALLOW_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
_SET_UP_REQUESTS = 3  # CreateUser, PutUserPolicy, CreateAccessKey; from then on the server wants signatures


@dataclass(frozen=True)
class Server:
    """A running server and the one key that it takes."""

    endpoint: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> Bucket:
        """A new bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return Bucket(self, name)

    def client(self, service: str = "s3") -> Any:
        """A boto3 client."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=f"http://{self.endpoint}",
            region_name=_REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )


@dataclass(frozen=True)
class Bucket:
    """One bucket of a server."""

    server: Server
    name: str

    def uri(self, path: str = "") -> str:
        """What a run file would name: `s3://BUCKET/PATH?...`, without credentials."""
        return f"s3://{self.name}/{path}?endpoint_override={self.server.endpoint}&scheme=http&region={_REGION}"

    def put(self, key: str, data: bytes) -> str:
        """Make an object. Returns its URI."""
        self.server.client().put_object(Bucket=self.name, Key=key, Body=data)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        """An object. Raises botocore's ClientError where there is none."""
        return bytes(self.server.client().get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of the objects that a reader sees, up to 1000, without the marks of empty folders."""
        found = self.server.client().list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return sorted(entry["Key"] for entry in found if not entry["Key"].endswith("/"))

    def uploads(self) -> list[str]:
        """The keys of the uploads in parts that are begun and not completed."""
        found = self.server.client().list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return sorted(entry["Key"] for entry in found)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; its key is in the environment while the session lasts."""
    with running_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def s3(s3_server: Server) -> Bucket:
    """A new bucket."""
    return s3_server.bucket()


@contextmanager
def running_server(folder: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    """A server while the block lasts, on an address of this thread's network; its log is in the folder."""
    log = folder / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", "0"]
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_SET_UP_REQUESTS)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        yield _with_key(_endpoint(process, log), process)
    finally:
        process.kill()
        process.wait()


def _endpoint(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        said = re.search(r"Running on http://([0-9.]+:[0-9]+)", log.read_text())
        if said:
            return said[1]
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server has not started:\n{log.read_text()}")


def _with_key(endpoint: str, process: subprocess.Popen[bytes]) -> Server:
    iam = Server(endpoint, "none", "none", process).client("iam")
    iam.create_user(UserName="raystill")
    iam.put_user_policy(UserName="raystill", PolicyName="all", PolicyDocument=json.dumps(_ALLOW_ALL))
    key = iam.create_access_key(UserName="raystill")["AccessKey"]
    return Server(endpoint, key["AccessKeyId"], key["SecretAccessKey"], process)
