"""What every command line of ours does: suggestions for typos, one sentence instead of a traceback, the same end for every signal."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

errors = Console(stderr=True, highlight=False)
interrupted = threading.Event()
"""Set by Ctrl-C. Other processes of the terminal get the signal too, and what they break may be heard of before KeyboardInterrupt."""


def _interrupt(*_: object) -> None:
    interrupted.set()
    raise KeyboardInterrupt


class Commands(typer.core.TyperGroup):
    """Commands in the order of a first day's work, and a suggestion for a mistyped one."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; `./headrace --help` lists the commands"
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


def run(app: typer.Typer) -> None:
    """Run a command; what a user can mend is one sentence, not a traceback (HEADRACE_DEBUG=1 shows both).

    A closed terminal or a SIGTERM ends a command as Ctrl-C does: it stops what it started.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup SIGHUP is ignored, and stays so
            signal.signal(number, lambda got, _: sys.exit(128 + got))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)
    except (ValueError, RuntimeError, OSError) as error:
        if interrupted.is_set():
            errors.print("interrupted")
            sys.exit(130)
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        errors.print(f"[red]{type(error).__name__.removesuffix('Error')}:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
