"""k8s/image/Dockerfile, built without Docker on a local base image, and pods of dev-cpu that run it.

The base is a minimal Debian 13 with the Python of this machine, so no image is pulled. It gets its package index and certificates (settings
of pip and uv); the Dockerfile is unchanged. uv reuses its cache. Needs about 30 GB of disk and a few minutes, and more of both for the
GPU variant.
"""

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from cluster.cli import main
from tests.support.dev_cpu import USER, dev_cpu, run_job
from tests.support.k8s.namespaces import missing
from tests.support.k8s.rendering import K8S, ROOT, needs_kustomize

NEEDED = ("buildah", "mmdebstrap", "netavark")
PLACES = f"{os.environ.get('PATH', os.defpath)}:/usr/lib/podman:/usr/libexec/podman"
"""buildah looks for netavark there."""
ABSENT = [name for name in NEEDED if shutil.which(name, path=PLACES) is None]
pytestmark = [
    pytest.mark.integration,
    pytest.mark.full,
    pytest.mark.timeout(1800),
    needs_kustomize,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.skipif(bool(ABSENT), reason=f"{', '.join(ABSENT)} not installed (Debian packages of these names)"),
]
VERSIONS = yaml.safe_load((K8S / "versions.yaml").read_text(encoding="utf-8"))
DEBIAN = "trixie"
PYTHON_NEEDS = "libssl3t64,libffi8,zlib1g,libbz2-1.0,liblzma5,libsqlite3-0,libreadline8t64,libuuid1,libexpat1"
"""Debian's own Python is newer than those that Raystill runs on."""
GPU_DISK_GB = 45
CORPORA = ROOT / "pipelines" / "recipes" / "corpora"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TRUST = ("SSL_CERT_FILE", "PIP_CERT")
INDEX = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")


@dataclass(frozen=True)
class Buildah:
    """A separate image store."""

    folder: Path

    def run(self, *arguments: str) -> str:
        """Run a command. Returns its output; fails with the end of it."""
        store = [f"--root={self.folder}/images", f"--runroot={self.folder}/run", "--storage-driver=overlay"]
        done = subprocess.run(["buildah", *store, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, f"buildah {arguments[0]}: {(done.stdout + done.stderr)[-4000:]}"
        return done.stdout.strip()

    def make_base(self) -> None:
        """`localhost/base:1`: Debian and Python, with this machine's certificates and package index."""
        archive = self.folder / "base.tar"
        query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        mirrors = subprocess.check_output(query, text=True).split()
        mirror = next(uri for uri in mirrors if re.search(r"/debian/?$", uri))
        packages = f"--include=ca-certificates,{PYTHON_NEEDS}"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", packages, DEBIAN, str(archive), mirror]
        subprocess.run(command, check=True, timeout=600)
        container = self.run("from", *_limits(), "scratch")
        self.run("add", "--quiet", container, str(archive), "/")
        self.run("copy", "--quiet", container, str(CERTIFICATES), str(CERTIFICATES))
        for part in ("bin", "include", "lib"):  # where python:3.12-slim-trixie has it
            self.run("copy", "--quiet", container, f"{sys.base_prefix}/{part}", f"/usr/local/{part}")
        self.run("run", "--isolation=chroot", container, "--", "ldconfig")
        for name in TRUST:
            self.run("config", "--env", f"{name}={CERTIFICATES}", container)
        self.run("commit", "--quiet", "--rm", container, "base:1")
        archive.unlink()

    def build(self, variant: str, roles: str = "label train serve") -> str:
        """Build the Dockerfile. Returns the name of the image."""
        index = {name: os.environ[name] for name in INDEX if name in os.environ}
        arguments = {"BASE": "localhost/base:1", "VARIANT": variant, "ROLES": roles, "UV_NO_CACHE": "0", **index}
        cache = subprocess.check_output([sys.executable, "-m", "uv", "cache", "dir"], text=True).strip()
        self.run(
            "bud", "--isolation=chroot", *_limits(), "--pull-never", "--network=host", f"--volume={cache}:/root/.cache/uv",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            "--file=k8s/image/Dockerfile", f"--tag=raystill:{variant}", ".",
        )  # fmt: skip
        return f"localhost/raystill:{variant}"

    def started(self, variant: str) -> str:
        """A container of a built image."""
        return self.run("from", "--pull-never", *_limits(), self.build(variant))

    def size_gb(self, image: str) -> float:
        (details,) = json.loads(self.run("images", "--json", image))
        number, unit = details["size"].split()
        return float(number) * {"GB": 1.0, "MB": 1e-3}[unit]

    def forget(self, name: str) -> None:
        """Remove all containers and the images with this name."""
        self.run("rm", "--all")
        for image in self.run("images", "--quiet", f"--filter=reference=localhost/{name}").split():
            self.run("rmi", "--force", image)

    def inside(self, container: str, *command: str) -> str:
        return self.run("run", "--isolation=chroot", container, "--", *command)


def _limits() -> list[str]:
    """Limits of this process. buildah may not set its own, higher defaults."""
    names = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    return [
        f"--ulimit={name}={most}:{most}" for name, which in names.items() for most in [resource.getrlimit(which)[1]]
    ]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    store = Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        store.make_base()
        yield store
    finally:
        store.run("rm", "--all")
        store.run("rmi", "--all", "--force")
        shutil.rmtree(store.folder)


@pytest.fixture(scope="module")
def container(buildah: Buildah) -> str:
    return buildah.started("cpu")


def test_an_unknown_variant_ends_the_build(buildah: Buildah) -> None:
    with pytest.raises(AssertionError, match="VARIANT is cpu or gpu, not tpu"):
        buildah.build("tpu")
    with pytest.raises(AssertionError, match="ROLES are label, train and serve, not evaluate"):
        buildah.build("cpu", "serve evaluate")


def test_it_runs_the_command_as_unprivileged_user(buildah: Buildah, container: str) -> None:
    inside = partial(buildah.inside, container)
    assert inside("id", "--user") == str(USER)
    shown = inside("raystill", "--help")
    assert all(name in shown for name in main.commands)
    assert inside("bash", "-c", "command -v wget grep ray | wc --lines") == "3"
    listed = inside("bash", "-c", "test -w /opt/raystill || echo read only; ls /opt/raystill/corpora")
    assert listed.split("\n") == ["read only", *sorted(folder.name for folder in CORPORA.iterdir())]
    assert inside("python", "-c", "import platform; print(platform.python_version())") == platform.python_version()


def test_its_bill_of_materials_names_each_package(buildah: Buildah, container: str) -> None:
    inside = partial(buildah.inside, container)
    materials = json.loads(inside("cat", "/opt/raystill/sbom.json"))
    query = ("uv", "pip", "list", "--quiet", "--format", "json", "--python", "/opt/raystill/bin/python")
    listed = json.loads(inside(*query))
    assert materials["bomFormat"] == "CycloneDX"
    found = {(canonicalize_name(part["name"]), part["version"]) for part in materials["components"]}
    assert {(canonicalize_name(one["name"]), one["version"]) for one in listed} <= found
    assert ("ray", VERSIONS["ray"]) in found


def test_a_role_alone_is_smaller(buildah: Buildah, container: str) -> None:
    whole = buildah.size_gb("localhost/raystill:cpu")
    image = buildah.build("cpu", "serve")
    assert buildah.size_gb(image) < whole
    inside = partial(buildah.inside, buildah.run("from", "--pull-never", *_limits(), image))
    assert inside("python", "-c", "import serving.app, vllm; print('serves')").splitlines()[-1] == "serves"
    absent = inside("python", "-c", "import importlib.util; print(importlib.util.find_spec('deepspeed'))")
    assert absent.splitlines()[-1] == "None", "training is another role"


def test_pods_run_it(buildah: Buildah, container: str, tmp_path: Path) -> None:
    image = Path(buildah.run("mount", container))
    with dev_cpu(tmp_path, image) as node:
        shutil.rmtree(tmp_path / "data" / "runs")
        tmp_path.joinpath("data").chmod(0o777)
        for stage in ("label", "train", "evaluate"):
            run_job(stage, node, tmp_path / "data")


@pytest.mark.timeout(2400)
def test_the_gpu_variant_has_cuda_and_runs_the_command(buildah: Buildah) -> None:
    """Runs without a GPU, and last: the disk may not hold both variants."""
    buildah.forget("raystill")
    free = shutil.disk_usage(buildah.folder).free / 1e9
    if free < GPU_DISK_GB:
        pytest.skip(f"{free:.0f} GB of disk are free, {GPU_DISK_GB} are needed")
    inside = partial(buildah.inside, buildah.started("gpu"))
    assert inside("id", "--user") == str(USER)
    shown = inside("raystill", "--help")
    assert all(name in shown for name in main.commands)
    cuda = inside("python", "-c", "import torch; print(torch.version.cuda)")
    assert cuda.split(".")[0] == VERSIONS["cuda"]
    assert inside("python", "-c", "import deepspeed, triton, vllm; print('imported')").splitlines()[-1] == "imported"
    # As Triton compiles its launchers.
    inside("bash", "-c", "printf '#include <Python.h>\\nint main() { return 0; }' > /tmp/launcher.c")
    headers = inside("python", "-c", "import sysconfig; print(sysconfig.get_path('include'))")
    build = f"gcc -I{headers} /tmp/launcher.c -o /tmp/launcher && /tmp/launcher && echo runs"
    assert inside("bash", "-c", build) == "runs"
