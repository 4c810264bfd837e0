"""Labels of a trial with `corpus.limit`, and then the same run with more rows: the answers are taken over without --replace."""

from __future__ import annotations

import json
from typing import Any

from pipelines.config import RunConfig
from pipelines.errors import UserError
from pipelines.label.output.commits import read_attempt
from pipelines.storage.manifest import read_manifest
from pipelines.storage.store import Store


def only_adds_rows(run: RunConfig, labels: Store, identity: dict[str, Any]) -> bool:
    """True if the folder's labels differ from the run's in a lower `corpus.limit` alone, and the run takes over their answers."""
    if run.labelling.reuse == [] or run.teacher.token_logprobs:
        return False
    try:
        made = read_manifest(labels, "labels") or read_attempt(labels)
    except UserError:
        return False  # the decision on the folder reports it
    before = made.identity.get("corpus", {}).get("limit") if made else None
    if made is None or before is None or (run.corpus.limit is not None and run.corpus.limit <= before):
        return False
    same = {**identity, "corpus": {**identity["corpus"], "limit": before}}
    return bool(json.loads(json.dumps(same)) == made.identity)
