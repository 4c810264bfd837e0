"""Whether this machine can listen on the endpoint's address. It imports no Ray: `raystill serve` looks before anything else."""

from __future__ import annotations

import errno
import socket

from pipelines.errors import UserError


def check_port(host: str, port: int) -> None:
    """Raises UserError if this process cannot listen on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Like Serve's proxy: a port whose old connections only wait to expire is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                rule = f"it is no address of this machine ({error.strerror})"
                raise UserError(
                    f"serving.host {host}", rule, "Set one of its addresses, or 0.0.0.0 for all."
                ) from error
            rule = f"this process cannot listen on it ({error.strerror})"
            remedy = (
                f"Set another one: `--set serving.port={port % 65535 + 1}`. Or press Ctrl-C in the shell of an earlier "
                "`raystill serve`, and repeat this command: it serves the new student."
            )
            raise UserError(f"serving.port {port} on {host}", rule, remedy) from error
