"""How a command ends: what goes wrong becomes one message and an exit code (errors.py), and a JSON object with --json."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from cluster.commands.errors import ErrorDetail

_INTERRUPTED = 130
_EXIT_S = 5.0


class CommandGroup(click.Group):
    """The commands of the program."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
        standalone_mode: bool = True, **extra: Any,
    ) -> Any:  # fmt: skip
        """Also reports what click refuses as JSON."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra = {"args": arguments, "prog_name": prog_name, "complete_var": complete_var, **extra}
        if not standalone_mode:
            return super().main(standalone_mode=False, **extra)
        try:
            with _sigterm_as_ctrl_c():
                code = super().main(standalone_mode=False, obj=_as_json(arguments), **extra)
        except click.ClickException as error:
            error.show()
            if _as_json(arguments):
                from cluster.commands.errors import of_usage

                _print_error(of_usage(error.format_message(), error.exit_code))
            sys.exit(error.exit_code)
        except SystemExit as end:
            if end.code == _INTERRUPTED and args is None:  # with arguments, a test or another program runs the command
                _exit_soon()
            raise
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        from pipelines.errors import RaystillError

        as_json = bool(ctx.obj)
        try:
            return super().invoke(ctx)
        except RaystillError as error:
            from cluster.commands.errors import of_raystill

            _fail(of_raystill(error), as_json=as_json)
        except KeyboardInterrupt as interrupt:
            from cluster.commands.errors import of_interrupt

            _fail(of_interrupt(ctx.invoked_subcommand, str(interrupt)), as_json=as_json)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from cluster.commands.errors import explained, of_bug, of_raystill

            if known := explained(error, ctx.invoked_subcommand):
                _fail(of_raystill(known), as_json=as_json)
            bug = of_bug(error)
            if as_json:
                _print_error(bug)
            _print_log(bug)
            raise


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside the block, so that what a command has begun is ended or said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_soon() -> None:
    """End this process within seconds, even if a thread of a library, for which Python waits, does not end."""
    timer = threading.Timer(_EXIT_S, os._exit, [_INTERRUPTED])
    timer.daemon = True
    timer.start()


def _as_json(arguments: Sequence[str]) -> bool:
    return "--json" in arguments


def _fail(error: ErrorDetail, *, as_json: bool) -> NoReturn:
    _print_log(error)
    click.echo(f"raystill: {error.message}", err=True)  # the last line
    if as_json:
        _print_error(error)
    sys.exit(error.exit_code)


def _print_log(error: ErrorDetail) -> None:
    if error.log:
        click.echo(f"log: {error.log}", err=True)


def _print_error(error: ErrorDetail) -> None:
    from cluster.commands.errors import CommandError

    click.echo(CommandError(error=error).model_dump_json())  # one line, also after the lines of --follow
