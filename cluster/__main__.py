"""`python -m cluster` is `raystill`. It checks the Python version first, because jobs run on whatever Python their cluster has."""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    found = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {found}: Raystill needs 3.11 or 3.12. Give all nodes an image with one of them.", file=sys.stderr)
    raise SystemExit(2)

from cluster.cli import main

if __name__ == "__main__":
    main(prog_name="raystill")
