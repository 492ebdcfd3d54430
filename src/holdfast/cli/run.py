"""``holdfast run``: Python, with Holdfast where a program imports Lightning. Imports nothing of the program itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from holdfast.cli.exits import Exit, Failure

SHIMS = Path(__file__).parents[1] / "compat" / "shims"
_WITH_A_VALUE = ("-W", "-X", "--check-hash-based-pycs")


class _Verbatim(click.Command):
    """Hands all words on as they are: they are for Python and for the program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_for_help = args[:1] and args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if asks_for_help else ["--", *args])


@click.command(cls=_Verbatim, options_metavar="")
@click.argument("words", metavar="SCRIPT|-m MODULE [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
def run(words: Sequence[str]) -> None:
    """Run a program that was written for Lightning on Holdfast.

    Everything after "run" is as it would be after "python", and the program runs as Python would run it; but
    lightning, pytorch_lightning and lightning_fabric are Holdfast, in the program and in the processes that it
    starts. An installed Lightning is not used and not changed.

    The exit code is the program's own.
    """
    _refuse_what_ignores_the_environment(words)
    if not sys.executable:
        raise Failure("It is not known which Python runs this command.", Exit.ERROR)
    paths = [str(SHIMS), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.execve(sys.executable, [sys.executable, *words], {**os.environ, "PYTHONPATH": os.pathsep.join(paths)})  # noqa: S606


def _refuse_what_ignores_the_environment(words: Sequence[str]) -> None:
    """With -E or -I Python would not look where we say, and find the installed Lightning, or nothing."""
    position = 0
    while position < len(words) and (word := words[position]).startswith("-") and word[:2] not in ("-", "-c", "-m"):
        if not word.startswith(("--", "-W", "-X")) and {"E", "I"} & set(word):
            raise Failure(
                f"With {word} Python ignores its environment, by which Holdfast is found.",
                Exit.USAGE,
                remedy="Leave it out, or call holdfast.compat.install() at the top of the program.",
            )
        position += 2 if word in _WITH_A_VALUE else 1
