"""The command `raystill` with slow commits, as on a slow disk, so that kills fall inside them.

python -m tests.support.slow_commits in-order label run.yaml
python -m tests.support.slow_commits reversed label run.yaml      the record before the parts, which every fault test must notice
"""

import sys
import time

from cluster.cli import main
from cluster.session import start
from pipelines.label.output.commits import COMMITS
from pipelines.storage.store import Store

PAUSE_S = 0.1


def slow_down(*, reverse: bool) -> None:
    """Replace Store.write in this process, the only one that writes."""
    write = Store.write
    waiting: list[tuple[Store, str, bytes]] = []

    def slow(store: Store, name: str, data: bytes, **options: bool) -> None:
        if reverse and name.endswith(".parquet"):
            waiting.append((store, name, data))
            return
        is_record = name.startswith(COMMITS) and name.endswith(".json")
        if is_record and not reverse:
            time.sleep(PAUSE_S)
        write(store, name, data, **options)
        if is_record and reverse:
            time.sleep(PAUSE_S)
            while waiting:
                write(*waiting.pop(0))

    Store.write = slow  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    slow_down(reverse=sys.argv.pop(1) == "reversed")
    start.machine_resources = lambda: {"CPU": 4.0, "GPU": 0.0}  # also on two cores: a replica of `echo` needs none
    main()
