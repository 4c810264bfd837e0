"""`raystill up` and `raystill down`: a cluster of several nodes on this machine."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--nodes", default=3, show_default=True, type=click.IntRange(1, 64), help="Nodes, with the head.")
@click.option(
    "--cpus", default=8, show_default=True, type=click.IntRange(1),
    help="CPUs of each node. They are logical: all nodes share this machine's cores.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print addresses and process ids as one JSON object.")
def up(nodes: int, cpus: int, as_json: bool) -> None:
    """Start a Ray cluster on this machine.

    \b
    Example:
      raystill up --nodes 3
    """
    from cluster.session.local_cluster import print_up

    print_up(nodes, cpus, as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print whether a cluster was stopped as one JSON object.")
def down(as_json: bool) -> None:
    """Stop the cluster that `raystill up` started.

    \b
    Example:
      raystill down
    """
    from cluster.session.local_cluster import down as stop_cluster

    stopped = stop_cluster()
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
        return
    click.echo("stopped" if stopped else "no cluster is running")
