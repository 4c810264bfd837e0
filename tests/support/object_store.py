"""S3 server for tests: moto in a separate process. It checks signatures and hides the parts of incomplete uploads.

    def test_x(s3: Bucket) -> None:          # a new bucket per test; one server per session
        Store(s3.uri("labels")).write("a", b"x")
        assert s3.keys() == ["labels/a"]

    with running_server(folder, "198.18.0.1") as server:      # another address, for simulated clusters
        bucket = server.bucket()

The fixture sets the credentials in the environment, for child processes and Ray workers that start later. The server keeps objects in
memory and is killed by its process id at the end.
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

from pipelines.storage.lease import CLAIM_BYTES, FOLDER

_START_S = 60
_REGION = "us-east-1"
_ALLOW_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
_SET_UP_REQUESTS = 3  # CreateUser, PutUserPolicy, CreateAccessKey; the server requires signatures after these


@dataclass(frozen=True)
class Server:
    """A running server and its only access key."""

    endpoint: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        own = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return {**own, "AWS_EC2_METADATA_DISABLED": "true"}

    def bucket(self) -> Bucket:
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return Bucket(self, name)

    def client(self, service: str = "s3") -> Any:
        import boto3

        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return boto3.client(service, endpoint_url=f"http://{self.endpoint}", region_name=_REGION, **keys)


@dataclass(frozen=True)
class Bucket:
    """One bucket of a server."""

    server: Server
    name: str

    def uri(self, path: str = "") -> str:
        """URI for a run file: `s3://BUCKET/PATH?...`, without credentials."""
        return f"s3://{self.name}/{path}?endpoint_override={self.server.endpoint}&scheme=http&region={_REGION}"

    def put(self, key: str, data: bytes) -> str:
        """Write an object. Returns its URI."""
        self.server.client().put_object(Bucket=self.name, Key=key, Body=data)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        """Content of an object. Raises botocore's ClientError if it does not exist."""
        return bytes(self.server.client().get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of the visible objects, up to 1000, without folder markers."""
        found = self.server.client().list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return sorted(entry["Key"] for entry in found if not entry["Key"].endswith("/"))

    def uploads(self) -> list[str]:
        """Keys of incomplete multipart uploads."""
        found = self.server.client().list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return sorted(entry["Key"] for entry in found)


def move_claims(s3: Bucket, labels: str) -> None:
    """Rewrite the claims on a labels folder as from another machine, whose processes are not visible here."""
    for key in s3.keys(f"{labels}/{FOLDER}/"):
        claim = json.loads(s3.get(key))
        claim["holder"] |= {"host": "node-7", "processes": "of another machine"}
        s3.put(key, json.dumps(claim).encode().ljust(CLAIM_BYTES))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server. Its key is in the environment during the session."""
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
    """Run a server while the block runs, on an address of this thread's network. Its log is in the folder."""
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
        address = re.search(r"Running on http://([0-9.]+:[0-9]+)", log.read_text())
        if address:
            return address[1]
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server has not started:\n{log.read_text()}")


def _with_key(endpoint: str, process: subprocess.Popen[bytes]) -> Server:
    iam = Server(endpoint, "none", "none", process).client("iam")
    iam.create_user(UserName="raystill")
    iam.put_user_policy(UserName="raystill", PolicyName="all", PolicyDocument=json.dumps(_ALLOW_ALL))
    key = iam.create_access_key(UserName="raystill")["AccessKey"]
    return Server(endpoint, key["AccessKeyId"], key["SecretAccessKey"], process)
