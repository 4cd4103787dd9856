"""What every command of ours shares: suggestions for typos, one sentence instead of a traceback, the same end for every signal, options."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from infra import private
from infra.cause import cause_of
from infra.settings import ROOT, Settings, load_settings

OURS = ("infra", "feature_repo", "streaming", "training", "serving", "tests")
EVERY_S = 20.0
"""So often a command that is long at work says so where there is no terminal that shows it."""


class _Told(Status):
    """What a command is at, line by line on stderr: for a log, or a pipe."""

    def __init__(self, what: Any, out: Console) -> None:
        super().__init__(what, console=out)
        self._what, self._ended = what, threading.Event()

    def start(self) -> None:
        self._ended.clear()
        threading.Thread(target=self._tell, name="progress", daemon=True).start()

    def update(self, status: Any = None, **_: Any) -> None:
        if status is not None:
            self._what = status

    def stop(self) -> None:
        self._ended.set()

    def _tell(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(EVERY_S):
            said = Text.from_markup(self._what).plain if isinstance(self._what, str) else str(self._what)
            with contextlib.suppress(OSError):  # nobody reads it
                self.console.print(f"{said or 'at work'} ({time.monotonic() - began:.0f} s)", soft_wrap=True, markup=False)


class _Console(Console):
    """Where there is no terminal, a status is told now and then, instead of not at all."""

    def status(self, status: Any, **options: Any) -> Status:
        return super().status(status, **options) if self.is_terminal else _Told(status, errors)


console = _Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_indented(out: Console, said: str, by: int) -> None:
    """Print markup, folded at the terminal's width (nothing is cut, ids neither), each line indented by so many columns."""
    for line in Text.from_markup(said).wrap(out, max(out.width - by, 20)):
        line.rstrip()
        out.print(Text(" " * by).append_text(line), soft_wrap=True)


interrupted = threading.Event()
"""Set by Ctrl-C. Other processes of the terminal get the signal too, and what they break may be heard of before KeyboardInterrupt."""


def _interrupt(*_: object) -> None:
    interrupted.set()
    raise KeyboardInterrupt


EXIT_CODES = {
    0: "done",
    1: "not done, or something is wrong: a sentence on stderr says what",
    2: "wrong usage: there is no such command, option or value",
    129: "the terminal was closed (SIGHUP)",
    130: "interrupted (Ctrl-C)",
    143: "told to end (SIGTERM)",
}
"""How any command may end. A service in the foreground (`serve`, `stream`, `watch`, `autopilot`) ends with 0 when it is told to."""
OWN_EXIT_CODES: dict[str, dict[int, str]] = {
    "demo": {1: "a stage failed, or what was served is not what training computes"},
    "doctor": {1: "something is missing on this machine: the fix is in the table"},
    "plan": {2: "something would change (with `--exit-code`)"},
    "backfill": {
        1: "a view failed and the others are done; or more than HEADRACE_DELETE_SHARE of a view would be removed, and was kept",
        75: "another backfill holds a view: try again later",
    },
    "check": {1: "a check failed"},
    "reproduce": {1: "the version does not come out the same"},
    "sweep": {1: "a view was left as it is, because more than HEADRACE_DELETE_SHARE of it would be forgotten"},
    "vacuum": {1: "a table was left as it is, because more than HEADRACE_DELETE_SHARE of it would be removed"},
    "replay": {1: "a request failed"},
    "replay-prediction": {1: "the prediction does not come out the same"},
    "skew": {1: "a cell is wrong"},
    "sources": {1: "a source is dead, or breaks what is declared of it"},
    "alarm": {1: "no version is live; or a word was given on an alarm that the autopilot does not know of"},
    "archive": {1: "archived, but what is past its time was kept, because it is more than HEADRACE_DELETE_SHARE of a table"},
    "retrain": {1: "the version is registered, and a gate failed"},
    "test": {1: "a test failed", 2: "interrupted", 3: "pytest itself failed", 4: "pytest takes no such argument", 5: "no test was chosen"},
    "docs": {1: "something is wrong with a page (with `--check`), or the site could not be built"},
    "lint": {1: "something is not in order"},
    "bench": {1: "the storm broke a bar"},
}
"""What a command's own codes mean, where they say more than those above."""


class Commands(typer.core.TyperGroup):
    """Commands in the order of a first day's work, and a suggestion for a mistyped one."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, with its exit codes at the end of its help."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and cmd_name in OWN_EXIT_CODES:
            said = (f"{code}: {what}" for code, what in OWN_EXIT_CODES[cmd_name].items())
            command.epilog = "\n\n".join(["Exit codes, beside those of every command (docs/reference/exit-codes.md):", *said])
        return command

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
    os.umask(private.UMASK)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup SIGHUP is ignored, and stays so
            signal.signal(number, lambda got, _: sys.exit(128 + got))
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app(prog_name="./headrace")
    except SystemExit as ended:
        if interrupted.is_set() or ended.code in (130, 128 + signal.SIGTERM, 128 + signal.SIGHUP):
            _end_spark()
        # typer has caught the KeyboardInterrupt, and says nothing; pyspark puts its own handler in the place of ours
        if ended.code == 130 or (interrupted.is_set() and ended.code):
            errors.print("interrupted")
            sys.exit(130)
        raise
    except KeyboardInterrupt:
        _end_spark()
        errors.print("interrupted")
        sys.exit(130)
    except Exception as error:
        if interrupted.is_set():
            _end_spark()
            errors.print("interrupted")
            sys.exit(130)
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        if _said_for_users(error):
            # Python's own names (Value:, Runtime:) would tell nobody a thing
            kind = type(error).__name__.removesuffix("Error") if _is_ours(error) else "Error"
            errors.print(f"[red]{kind}:[/red] {escape(str(error))}", soft_wrap=True)
        else:
            own = os.environ.get("HEADRACE_REPO")
            errors.print(f"[red]Error:[/red] {escape(cause_of(error, Path(own) if own else None))}", soft_wrap=True)
            if path := _keep_traceback():
                errors.print(f"[dim]the whole story: {path} (HEADRACE_DEBUG=1 prints it)[/dim]", soft_wrap=True)
        sys.exit(1)


def _end_spark() -> None:
    """End the JVM that this process has started. One that was interrupted while it starts finds nobody to answer to, and would stay for ever."""
    if "pyspark" not in sys.modules:
        return
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "pyspark-shell" in child.cmdline():
                child.terminate()


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.split(".")[0] in OURS


def _said_for_users(error: Exception) -> bool:
    """Whether the message was written for whoever runs the command: a type of ours, or a plain error that our own code raised."""
    if _is_ours(error):
        return True
    if not isinstance(error, (ValueError, RuntimeError, OSError)) or type(error).__module__.split(".")[0] not in (
        "builtins",
        "pydantic_core",
    ):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    last = Path(frames[-1].filename) if frames else ROOT
    ours = last.is_relative_to(ROOT) and not last.is_relative_to(ROOT / ".venv")
    return ours or isinstance(error, OSError) or type(error).__module__ == "pydantic_core._pydantic_core"


def _keep_traceback() -> Path | None:
    """The traceback under way, at the end of `log/errors.log` in the state folder; None where that cannot be written."""
    try:
        own = load_settings()
        own.log_dir.mkdir(parents=True, exist_ok=True)
        path = own.log_dir / "errors.log"
        with open(path, "a") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {' '.join(sys.argv[1:])}\n{traceback.format_exc()}\n")
    except (OSError, ValueError):
        return None
    return path


def plain_name(text: str) -> str:
    """The name of a model: one folder's, and no path."""
    if not text or text in (".", "..") or "/" in text or "\0" in text:
        raise typer.BadParameter(f"{text!r} is no name of a model: it may not be a path (`headrace status` lists the models)")
    return text


Model = Annotated[str, typer.Argument(help="The model's name; default: the only one of the use case.")]
Report = Annotated[Path | None, typer.Option("--report", help="Write the result as JSON here.")]


def own_settings() -> Settings:
    """This process's settings, made known to Feast, Spark's and Ray's workers."""
    own = load_settings()
    own.export()
    path = os.environ.get("PYTHONPATH", "")
    if str(ROOT) not in path.split(os.pathsep):  # Spark's and Ray's workers import our packages
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))
    # Feast warns of every experimental feature at every use, and overrides the warning filters
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    return own


def model_name(use_case: Any, name: str) -> str:
    """The model asked for, or the only one of the use case.

    Raises:
        ValueError: none, or several and no name.
    """
    if name:
        return str(use_case.model(name).name)
    if len(use_case.models) != 1:
        raise ValueError(f"name a model: this use case has {', '.join(use_case.models) or 'none'}")
    return str(next(iter(use_case.models)))


def moment(text: str) -> datetime:
    """An ISO date or time; UTC where it has no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO date or time, such as 2024-05-01 or 2024-05-01T06:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def write_report(path: Path | None, result: Any) -> None:
    """Write a command's result as JSON, if the user asked for it."""
    if path is not None:
        import msgspec

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
        console.print(f"[dim]report written to {path}[/dim]")
