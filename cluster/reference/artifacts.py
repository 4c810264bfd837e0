"""docs/reference/artifacts.md: folders, manifests, columns of Parquet files, JSON Schemas."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pyarrow as pa

from cluster.reference.fields import meanings, sentence, table, type_text

_HEAD = """# Artifacts and schemas

A stage writes one folder below the run's `output`. It is finished when `manifest.json` exists, which is written last and atomically.

| folder | type | stage |
| --- | --- | --- |
| `labels/` | `labels` | label |
| `student/` | `student` | train |
| `report/` | `report` | evaluate |
| `compare/` | `comparison`; each cell has `student` and `scores` | compare |

"""
_LABELS = """### labels

| path | content |
| --- | --- |
| `data/`, `rejects/` | accepted and rejected rows of `corpus.train`; rows of a share in `corpus.validation` are among them |
| `heldout/data/`, `heldout/rejects/` | the same for `corpus.test`, else for the files that `corpus.validation` names; without filters |
| `rationales/` | of train rows that have several |
| `texts/` | what the teacher wrote for rows of both |
| `token_logprobs/` | with `teacher.token_logprobs` |
| `earlier/`, `batches/` | answers and batches that no row has taken over yet |
| `spent/` | what each run with a remote teacher has used of `teacher.budget` |
| `record-*.json` | the commits, with their files |
| `README.md` | a dataset card |

A folder without rows does not exist. With `teacher.keep_thoughts` the rows in `data/` and `heldout/data/` have a further column `thoughts`:
those of the sample whose rationale is kept, empty if it has none. `texts/` has the thoughts in any case.

"""


def artifacts_page() -> str:
    """The page."""
    from pipelines.data import schema
    from pipelines.evaluate import predictions
    from pipelines.storage.manifest import Manifest

    text = f"{_HEAD}## manifest.json\n\n{sentence(Manifest)}\n\n"
    explained = meanings(Manifest)
    fields = Manifest.model_fields.items()
    rows = [[f"`{name}`", type_text(one.annotation, one.metadata), explained.get(name, "")] for name, one in fields]
    text += table(["field", "value", "meaning"], rows) + f"\n## Parquet files\n\n{_LABELS}"
    for title, module, name in (
        ("labels/data", schema, "LABEL"),
        ("labels/rejects", schema, "REJECT"),
        ("labels/rationales", schema, "RATIONALE"),
        ("labels/texts", schema, "TEXT"),
        ("labels/token_logprobs", schema, "TOKEN_LOGPROBS"),
        ("report/predictions.parquet", predictions, "PREDICTION"),
    ):
        text += f"### {title}\n\n{_columns(module, name)}\n"
    reasons = ", ".join(f"`{reason}`" for reason in schema.REJECT_REASONS)
    return f"{text}Reasons of rejects, in the order of the checks: {reasons}.\n\n{_schemas()}"


def _columns(module: ModuleType, name: str) -> str:
    """The columns of a schema; their meanings are the comments in the source."""
    found: pa.Schema = getattr(module, name)
    source = inspect.getsource(module).partition(f"\n{name} = pa.schema(")[2].partition("\n)\n")[0]
    comments = {}
    for part in source.split("pa.field(")[1:]:
        column = re.match(r'\s*"(\w+)"', part)
        comment = re.search(r"  # (.+)", part)
        if column and comment:
            comments[column[1]] = comment[1]
    rows = [
        [f"`{one.name}`", _type(one.type) + (" or null" if one.nullable else ""), comments.get(one.name, "")]
        for one in found
    ]
    return table(["column", "type", "meaning"], rows)


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return "record of " + ", ".join(field.name for field in kind) if pa.types.is_struct(kind) else str(kind)


def _schemas() -> str:
    from cluster.schemas import models

    rows = [[f"[{name}.json](../../cluster/schemas/{name}.json)", sentence(model)] for name, model in models().items()]
    text = "What the commands print with `--json`, and the JSON files of artifacts.\n\n"
    return f"## JSON Schemas\n\n{text}{table(['schema', 'describes'], rows)}"
