"""An overlay's settings.yaml: what an installation changes. k8s/base/fields copies the values into the manifests.

Kustomize itself checks none of it. `python -m k8s.serve.render` reads it through this model, and editors use its JSON Schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from pipelines.config.base import ReplicasConfig
from pipelines.errors import UserError, last_line

FILE = "settings/settings.yaml"
"""In an overlay."""
Quantity = Annotated[
    str,
    Field(
        pattern=r"^([1-9][0-9]{0,2}m?|(10[01][0-9]|102[0-3]|[1-9][0-9]{0,2})[KMGTP]i)$", examples=["500m", "8", "64Gi"]
    ),
]
"""As Kubernetes writes it back: not 0.5, 1000m or 1024Gi. Otherwise the operator would own the field, and the next apply would conflict."""
_Count = Annotated[int, Field(ge=1, le=10_000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True)


class HeadSize(_Part):
    """Requests and limits of each Ray head."""

    cpu: Quantity
    memory: Quantity
    shared_memory: Quantity
    """Of `memory`: 30% to 50%. Ray's objects take 30%."""


class WorkerSize(HeadSize):
    """Requests and limits of each Ray worker."""

    gpus: Annotated[str, Field(pattern=r"^[0-9]{1,2}$")]
    """Used with the component gpu-workers."""


class EndpointSize(ReplicasConfig):
    """Worker pods of the endpoint."""

    generation: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,40}$")] = "1"
    """Another value starts a second cluster with the new configuration. It takes over when it is ready."""


class Storage(_Part):
    """The two volumes. Their class offers ReadWriteMany, unless the cluster has one node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_: Annotated[str, Field(alias="class", min_length=1)]
    models: Quantity
    data: Quantity


class Settings(_Part):
    """`spec` of settings.yaml."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    image: Annotated[str, Field(pattern=r"^[^@\s]+(:[^/:@\s]+|@sha256:[0-9a-f]{64})$")]
    """By digest, or by a tag that never moves."""
    redis_image: Annotated[str, Field(pattern=r"^[^@\s]+(:[^/:@\s]+|@sha256:[0-9a-f]{64})$")]
    """Used with the component gcs-ft-redis."""
    head: HeadSize
    worker: WorkerSize
    teacher: WorkerSize
    """Of the folder teacher, whose pods hold one model over several nodes."""
    label: ReplicasConfig
    """Worker pods of the label job: room for teacher.replicas."""
    train: _Count
    """Worker pods: training.workers, by GPUs per pod."""
    evaluate: _Count
    endpoint: EndpointSize
    cluster: _Count
    """Largest number of workers of the development cluster."""
    storage: Storage
    host: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
    """Used with the components ingress and http-route."""
    models: str
    """A YAML list of models, as cluster/kubernetes/models.py reads it."""


class _Metadata(BaseModel):
    name: Literal["settings"]
    annotations: dict[str, str]


class SettingsFile(BaseModel):
    """The file, as an object that Kustomize reads and does not render."""

    model_config = ConfigDict(extra="forbid", validate_by_alias=True, validate_by_name=True)

    api_version: Annotated[Literal["raystill.io/v1"], Field(alias="apiVersion")]
    kind: Literal["Settings"]
    metadata: _Metadata
    spec: Settings


def read_settings(overlay: Path) -> Settings:
    """The settings of an overlay. Raises UserError if they break a rule."""
    file = overlay / FILE
    remedy = "Compare it with k8s/overlays/prod-gpu/settings/settings.yaml."
    try:
        return SettingsFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).spec
    except FileNotFoundError as error:
        raise UserError(str(file), "the overlay has no settings", remedy) from error
    except yaml.YAMLError as error:
        raise UserError(str(file), f"it is no YAML ({last_line(error)})", remedy) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(str(file), problems, remedy) from error
