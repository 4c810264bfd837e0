"""What is sent to a cluster for one stage: command line, files, code, and a digest of what makes two jobs the same."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.code_version import code_folders, code_hash
from cluster.environment import DRIVER_CPUS
from cluster.jobs.job import Driver
from cluster.jobs.package import RUN_FILE, write_package
from pipelines.config import RunConfig
from pipelines.config.load import parse_run
from pipelines.storage.filesystems import shown
from pipelines.storage.fingerprint import fingerprint


@dataclass(frozen=True)
class Submission:
    """Arguments of Ray's `submit_job`, but for the id."""

    entrypoint: str
    runtime_env: dict[str, Any]
    driver: Driver
    metadata: dict[str, str]

    @property
    def settings(self) -> str:
        """Equal for two submissions exactly if they do the same."""
        return self.metadata["settings"]


def make_submission(
    run: RunConfig, stage: str, driver: Driver, folder: Path, *, shared: Sequence[str], same_machine: bool,
    arguments: Sequence[str],
) -> Submission:  # fmt: skip
    """Write the job's working directory and describe the job.

    Args:
        folder: an empty folder, which must exist until the job is submitted.
        shared: folders that every node of the cluster has under the same path.
        same_machine: every node runs on this machine.
        arguments: more arguments of the stage's command.

    Raises:
        UserError: the cluster does not see a path of the run.
    """
    write_package(run, folder, shared=shared, same_machine=same_machine)
    runtime_env: dict[str, Any] = {"working_dir": str(folder)}
    if not driver.installed:
        runtime_env["py_modules"] = [str(package) for package in code_folders()]
    variables = dict(driver.environment) | ({DRIVER_CPUS: f"{driver.cpus:g}"} if driver.cpus else {})
    if variables:
        runtime_env["env_vars"] = variables
    return Submission(
        shlex.join(["python", "-m", "cluster", stage, RUN_FILE, *arguments]),
        runtime_env,
        driver,
        {
            "raystill": stage,
            "run": run.name,
            "output": shown(run.output),
            "settings": _settings(folder, driver, arguments),
        },
    )


def _settings(package: Path, driver: Driver, arguments: Sequence[str]) -> str:
    """Digest of run, files, code, variables, driver and arguments. --verbose changes only what is printed."""
    files = {
        file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in package.rglob("*")
        if file.is_file() and file != package / RUN_FILE
    }
    # Parsed, so that a default written out is the same setting.
    run = parse_run(yaml.safe_load((package / RUN_FILE).read_text(encoding="utf-8")))
    return fingerprint(
        {
            "run": run.model_dump(mode="json"),
            "files": files,
            "command": [argument for argument in arguments if argument != "--verbose"],
            "environment": dict(driver.environment),
            "driver": [driver.cpus, dict(driver.resources)],
            "code": None if driver.installed else code_hash(),
        }
    )
