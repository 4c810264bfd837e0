"""The scan of a corpus: every row is read once, before any row goes to the teacher.

In: file ranges. Out: the number of rows, and the rejects that need no teacher:

    bad_input        the task cannot read the row                                     (scan_rows.py)
    duplicate        an earlier row of the data split has its id                      (scan_duplicates.py)
    near_duplicate   on request: the input nearly repeats the one of an earlier row   (scan_duplicates.py)

Memory of the driver: 16 bytes per row during the search for duplicates, and one more for a moment; afterwards 8 per reject, and 16 per
row whose id occurs again. Signatures of near duplicates take some KB per row (data/near_duplicates.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.data.reader import DataSplit, with_states
from pipelines.label.output.commits import ScanRecord
from pipelines.label.scan_duplicates import duplicates, near_duplicates
from pipelines.label.scan_rows import Corpus, OnRejects, Rejects, read_rows

__all__ = ["Corpus", "scan_corpus"]


def scan_corpus(corpus: Corpus, on_rejects: OnRejects) -> ScanRecord:
    """Read every file range once, in parallel on Ray.

    Args:
        on_rejects: called with tables of rejects (outcomes.OUTCOME).

    Raises:
        UserError: a file as a whole cannot be read.
    """
    corpus = dataclasses.replace(corpus, splits=with_states(corpus.splits))
    rejects = Rejects(corpus.splits, on_rejects)
    scanned = read_rows(corpus, rejects)
    rows: dict[DataSplit, int] = {"train": 0, "heldout": 0}
    for split, halves in zip(corpus.splits, scanned.halves, strict=True):
        rows[split.name] += len(halves)
    found = [scanned.unreadable, *(duplicates(name, corpus, scanned, rejects) for name in rows)]
    if corpus.near_duplicates is not None:
        found.append(near_duplicates(corpus, scanned, np.sort(np.concatenate(found)), rejects))
    rejects.flush()
    splits = [dataclasses.replace(split, state=None) for split in corpus.splits]
    return ScanRecord(rows, splits, np.sort(np.concatenate(found)))
