"""The command line: one file a verb, loaded when asked for. Shows what lower layers know; decides nothing."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from holdfast._version import __version__
from holdfast.cli import exits, text
from holdfast.errors import HoldfastError

VERBS = ("ls", "verify", "convert", "run")


class _Verbs(click.Group):
    """Finds the verb ``x`` in ``holdfast.cli.x``; turns Holdfast's errors into a message and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None:  # whatever is read or made has a name, and Holdfast's own words
                raise
            text.give_up_stdout()
            click.echo(f"Error: The output cannot be written: {error.strerror}.", err=True)
            sys.exit(exits.Exit.ERROR)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = getattr(import_module(f"holdfast.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command), f"holdfast.cli.{cmd_name} holds the verb {cmd_name}"
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HoldfastError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(exits.of(error))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="holdfast")
def main() -> None:
    """Look after the checkpoints of PyTorch training: list them, verify them; run programs written for Lightning.

    The verbs that look at checkpoints have --json for scripts. Their exit codes are the same: 0 all is well, 1 error,
    2 wrong usage, 10 corrupt, 11 not found, 12 foreign.
    """
    text.escape_what_stdout_lacks()
