"""`python -m cluster` is `raystill`."""

from cluster.cli import main

if __name__ == "__main__":
    main(prog_name="raystill")
