"""`raystill up` and `raystill down`: a cluster of several nodes on this machine."""

from __future__ import annotations

import click


@click.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 64), help="The head and the others.")
@click.option(
    "--cpus",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Of each node; they share this machine's cores.",
)
@click.option("--json", "as_json", is_flag=True, help="Print addresses and process ids as one JSON object.")
def up(nodes: int, cpus: int, as_json: bool) -> None:
    """A Ray cluster of several nodes on this machine, to try a run as on many.

    \b
    Example:
      raystill up --nodes 3
    """
    from cluster.session.local_cluster import print_up

    print_up(nodes, cpus, as_json=as_json)


@click.command()
def down() -> None:
    """End the cluster that `raystill up` started.

    \b
    Example:
      raystill down
    """
    from cluster.session.local_cluster import down as end

    click.echo("ended" if end() else "there is none")
