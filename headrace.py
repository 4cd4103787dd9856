"""The front door: every command of `./headrace`. Heavy things are imported where they are used, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback; `run_app` takes it from there

import typer
from rich.table import Table

from feature_repo import cli as releasing
from infra.cli import Commands, Report, console, errors, model_name, moment, own_settings, write_report
from infra.cli import run as run_app
from infra.settings import ROOT, Settings, load_settings
from infra.storage.place import is_url
from infra.timestamps import microseconds, minute_text
from serving import cli as serving
from streaming import cli as streaming
from streaming import versions_cli as versioning
from training import cli as training
from training import loop_cli as learning

VERSION = "0.2.0"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Headrace: one feature definition, one number - in batch, stream, training and serving.\n\n"
    "Start with [bold]./headrace demo[/bold]; it runs everything on a year of real data and ends with a report.",
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _options(
    repo: Annotated[Path | None, typer.Option("--repo", help="The use case folder (or HEADRACE_REPO).")] = None,
    state: Annotated[Path | None, typer.Option("--state", help="Where everything is written (or HEADRACE_STATE).")] = None,
    _version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    if repo is not None:
        os.environ["HEADRACE_REPO"] = str(repo if is_url(str(repo)) else repo.resolve())
    if state is not None:
        os.environ["HEADRACE_STATE"] = str(state if is_url(str(state)) else state.resolve())


@app.command()
def demo(
    days: Annotated[int, typer.Option(min=1, max=90, help="Days of history to replay as live traffic.")] = 14,
    step: Annotated[
        float | None, typer.Option(min=1, help="Minutes by which the replay's time advances at once; default: 30, with --year 60.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the services running at the end.")] = False,
    year: Annotated[
        bool, typer.Option("--year", help="Let the autopilot live through the rest of the data instead (nine months: about two hours).")
    ] = False,
    start: Annotated[str | None, typer.Option("--from", help="With --year: its first day; default: 90 days into the data.")] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="With --year: the day after its last; default: as far as the data reaches.")
    ] = None,
    report: Report = None,
) -> None:
    """Run the whole platform once: ingest, backfill, train, serve, replay, watch, prove, report."""
    from feature_repo.spec.use_case import UseCase
    from serving.simulation.demo import Demo

    own = own_settings()
    case = UseCase(own.repo)
    if year:
        from serving.simulation.year import Year

        name = model_name(case, "")
        if not Year(own, case, name, _stretch(case, name, start, to), step or 60, console, learning.loop(own, _drift(own))).run(report):
            raise typer.Exit(1)
        return
    if not Demo(own, case, model_name(case, ""), days, step or 30, console, _training()).run(keep, report):
        raise typer.Exit(1)


@app.command()
def policies(
    start: Annotated[str | None, typer.Option("--from", help="First day; default: 90 days into the data.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The day after the last; default: as far as the data reaches.")] = None,
    report: Report = None,
) -> None:
    """When to train again: six policies, each lived through the history that was ingested, decided by the loop's own code. Serves nothing.

    never; monthly; on drift (the watch's verdicts with triage: a suspected fault holds it for hold_days); on drift, never held; on quality;
    refit (each week the leaves of the live model are fitted anew, without gates or stages). A day held is dear if another policy's answers
    were better in that week by more than the challenge's margin.
    """
    from feature_repo.spec.use_case import UseCase
    from serving.simulation.year_report import policies_tables

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, "")
    with console.status("joining the training set of the whole time") as status:
        found = learning.loop(own, _drift(own)).policies(case, name, *_stretch(case, name, start, to), progress=status.update)
    for table in policies_tables(found):
        console.print(table)
    write_report(report, found)


def _stretch(case: Any, model: str, start: str | None, to: str | None) -> tuple[int, int]:
    """First and last moment, microseconds, of a run that begins with a model of its own."""
    split = case.model(model).split
    first = microseconds(moment(start)) if start else microseconds(split.train.bounds()[0]) + 90 * 86_400_000_000
    last = microseconds(moment(to)) if to else microseconds((split.test or split.valid).bounds()[1])
    if last <= first:
        raise typer.BadParameter(f"--to ({minute_text(last)}) has to lie after --from ({minute_text(first)}): there is no day between them")
    return first, last


def _drift(own: Settings) -> Any:
    """The watch's verdicts for training's policies; handed in, since training does not import serving."""
    from serving.monitoring.around import calendar_of, sources_of
    from serving.monitoring.rehearsal import Rehearsal

    made: list[Rehearsal] = []

    def verdict(*asked: Any) -> Any:
        if not made:
            from feature_repo.spec.use_case import UseCase

            case = UseCase(own.repo)
            spec = case.model(model_name(case, ""))
            made.append(Rehearsal(own.drift_detector, calendar_of(spec), sources_of(case, spec.feature_service)))
        return made[0].verdict(*asked)

    return verdict


def _training() -> Any:
    """What the demo needs of training; handed in, since serving does not import it."""
    from streaming.skew import proof
    from training.data import training_set
    from training.evaluation import metrics
    from training.registration import register

    return {"build": training_set.build, "register": register.train_and_register, "skew": proof, "evaluate": metrics}


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and the exact fix."""
    from feature_repo.spec.use_case_check import use_case
    from infra.doctor import examine

    table = Table("", "what", "found", box=None, pad_edge=False)
    findings = examine(load_settings(), use_case)  # not _own(): that writes, and whether it can is a finding
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.ok else "[red]!![/red]", finding.name, finding.found)
        if not finding.ok:
            table.add_row("", "", f"[yellow]fix: {finding.fix}[/yellow]")
    console.print(table)
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


for _command in (
    streaming.ingest,
    training.plan,
    streaming.apply,
    streaming.backfill,
    training.check,
    training.train,
    training.reproduce,
    releasing.promote,
    releasing.rollback,
    releasing.canary,
    releasing.shadow,
    releasing.why,
    serving.up,
    serving.down,
    serving.status,
    streaming.sources,
    streaming.stream,
    streaming.rejected,
    streaming.sweep,
    versioning.versions,
    versioning.vacuum,
    serving.serve,
    serving.watch,
    serving.replay,
    serving.replay_prediction,
    serving.score,
    serving.score_stream,
    training.skew,
    learning.archive,
    learning.quality,
    learning.retrain,
    learning.alarm,
    learning.autopilot,
    learning.compare,
):
    app.command()(_command)


@app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    ctx: typer.Context,
    fast: Annotated[
        bool, typer.Option("--fast", help="Unit tests only, with few random inputs each: no service is started, and it takes a minute.")
    ] = False,
) -> None:
    """Run the test suite (further arguments go to pytest)."""
    chosen: list[str] = []
    # OpenMP's threads spin while they wait: beside other processes that costs more than the training itself
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if fast:
        os.environ.setdefault("HEADRACE_EXAMPLES", "20")
        processes = min(len(os.sched_getaffinity(0)), 4)  # each has a state folder of its own (tests/conftest.py)
        chosen = ["-m", "not integration and not slow", "-n", str(processes), "--dist", "worksteal"]
    os.chdir(ROOT)
    # in this process's place: a Ctrl-C then lets pytest stop the services it started, instead of killing it a moment later
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *chosen, *ctx.args])


@app.command()
def docs(
    check: Annotated[
        bool, typer.Option("--check", help="Only look for what is wrong: stale pages, dead links, names of nothing, long lines.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Make the reference pages anew from the code.")] = False,
    build: Annotated[Path | None, typer.Option("--build", help="Write the site into this folder, and end.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to serve the site, on 127.0.0.1.")] = 8008,
) -> None:
    """Build the documentation and serve it; pages that change are shown anew."""
    import subprocess
    import tempfile

    from docs import checks, reference_pages

    if write:
        for name in reference_pages.write():
            console.print(f"written: {name}", highlight=False)
        return
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # a note on its successor, at every build
    mkdocs = [sys.executable, "-m", "mkdocs"]
    if check:
        faults = checks.faults()
        with tempfile.TemporaryDirectory() as folder:
            built = subprocess.run([*mkdocs, "build", "--strict", "-q", "-d", folder], cwd=ROOT, check=False).returncode == 0
        for fault in faults:
            errors.print(fault, highlight=False, markup=False, soft_wrap=True)
        if faults or not built:
            raise typer.Exit(1)
        console.print(f"{len(checks.pages())} pages are in order")
        return
    if build is not None:
        raise typer.Exit(subprocess.run([*mkdocs, "build", "-q", "-d", str(build.resolve())], cwd=ROOT, check=False).returncode)
    os.chdir(ROOT)
    os.execv(sys.executable, [*mkdocs, "serve", "-a", f"127.0.0.1:{port}"])


LINTS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["typos"], ["mypy"], ["lint-imports", "--no-cache", "--no-logo"])


@app.command()
def lint() -> None:
    """Check style, spelling, types and the order of imports, as CI does. Needs no services; a minute or two."""
    import subprocess

    failed = []
    for command in LINTS:
        console.print(f"[bold]{' '.join(command)}[/bold]", highlight=False)
        if subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], cwd=ROOT, check=False).returncode:
            failed.append(command[0])
    if failed:
        errors.print(f"[red]not in order:[/red] {', '.join(failed)}")
        raise typer.Exit(1)


@app.command()
def bench(
    what: Annotated[
        str, typer.Argument(help="join, windows, heavy, backfill, stream, growth, serving, overload, watch, triage, policies or storm.")
    ],
    scale: Annotated[float, typer.Option(min=0.001, help="Fraction of the full size, for a quick try.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; ours and the peers take turns, medians count.")] = 3,
    seconds: Annotated[float, typer.Option(min=5, help="How long the stream's steady load lasts.")] = 60,
    minutes: Annotated[float, typer.Option(min=1, help="How long the storm lasts.")] = 10,
    only: Annotated[str, typer.Option(help="Of the storm's faults those with one of these words, such as 'redis,killed'.")] = "",
    report: Report = None,
) -> None:
    """Measure ours beside its peers, in one call on the same data (docs/benchmarks.md). Takes minutes; leaves nothing behind."""
    from tests.bench.commands import WHAT, storm
    from tests.bench.commands import run as measure

    if what not in WHAT:
        raise typer.BadParameter(f"there is {', '.join(WHAT)}; not {what!r}")
    if what != "storm":
        measure(what, scale, rounds, seconds, report)
    elif not storm(minutes, only, report):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version, and the commit where this is a checkout of one."""
    from training.registration.provenance import commit

    found = commit(ROOT)
    short = f"{found[:12]}{'+changes' if found.endswith('+changes') else ''}" if found else ""
    console.print(f"headrace {VERSION}{f' ({short})' if short else ''}", highlight=False)


if __name__ == "__main__":
    run_app(app)
