"""The front door: every command of `./headrace`. Heavy things are imported where they are used, so that `--help` is quick."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.command_line import Commands, errors
from infra.command_line import run as run_app
from infra.settings import ROOT, Settings, settings

if TYPE_CHECKING:
    from feature_repo.use_case import UseCase

VERSION = "0.1.0"
console = Console(highlight=False)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Headrace: one feature definition, one number - in batch, stream, training and serving.\n\n"
    "Start with [bold]./headrace demo[/bold]; it runs everything on a year of real data and ends with a report.",
    rich_markup_mode="rich",
)

Model = Annotated[str, typer.Argument(help="The model's name; default: the only one of the use case.")]
Report = Annotated[Path | None, typer.Option("--report", help="Write the result as JSON here.")]


@app.callback()
def _options(
    repo: Annotated[Path | None, typer.Option("--repo", help="The use case folder (or HEADRACE_REPO).")] = None,
    state: Annotated[Path | None, typer.Option("--state", help="Where everything is written (or HEADRACE_STATE).")] = None,
) -> None:
    if repo is not None:
        os.environ["HEADRACE_REPO"] = str(repo.resolve())
    if state is not None:
        os.environ["HEADRACE_STATE"] = str(state.resolve())


def _own() -> Settings:
    own = settings()
    own.export()
    path = os.environ.get("PYTHONPATH", "")
    if str(ROOT) not in path.split(os.pathsep):  # Spark's and Ray's workers import our packages
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))
    # Feast warns of every experimental feature at every use, and overrides the warning filters
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    return own


def _use_case(own: Settings) -> UseCase:
    from feature_repo.use_case import UseCase

    return UseCase(own.repo)


def _model(case: UseCase, name: str) -> str:
    from feature_repo.use_case import UseCaseError

    if name:
        return case.model(name).name
    if len(case.models) != 1:
        raise UseCaseError(f"name a model: this use case has {', '.join(case.models) or 'none'}")
    return next(iter(case.models))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO date or time, such as 2024-05-01 or 2024-05-01T06:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _write(path: Path | None, result: Any) -> None:
    if path is not None:
        import msgspec

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
        console.print(f"[dim]report written to {path}[/dim]")


@app.command()
def demo(
    days: Annotated[int, typer.Option(min=1, max=90, help="Days of history to replay as live traffic.")] = 14,
    step: Annotated[float, typer.Option(min=1, help="Minutes by which the replay's time advances at once.")] = 30,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the services running at the end.")] = False,
    report: Report = None,
) -> None:
    """Run the whole platform once: ingest, backfill, train, serve, replay, watch, prove, report."""
    from serving.demo import Demo

    own = _own()
    case = _use_case(own)
    if not Demo(own, case, _model(case, ""), days, step, console, _training()).run(keep, report):
        raise typer.Exit(1)


def _training() -> Any:
    """What the demo needs of training; handed in, since serving does not import it."""
    from training import evaluate, register, skew, training_set

    return {"build": training_set.build, "register": register.train_and_register, "skew": skew, "evaluate": evaluate}


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and the exact fix."""
    from infra.doctor import examine

    table = Table("", "what", "found", box=None, pad_edge=False)
    findings = examine(settings())  # not _own(): that writes, and whether it can is a finding
    for finding in findings:
        table.add_row("[green]ok[/green]" if finding.ok else "[red]!![/red]", finding.name, finding.found)
        if not finding.ok:
            table.add_row("", "", f"[yellow]fix: {finding.fix}[/yellow]")
    console.print(table)
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


@app.command()
def ingest() -> None:
    """Make the offline store's tables from the raw files (ingest.yaml)."""
    from streaming.ingest import ingest as run
    from streaming.session import session

    own = _own()
    case = _use_case(own)
    with console.status("starting Spark"):
        spark = session(own)
    with console.status("ingesting") as status:
        loaded = run(case, own, spark, progress=lambda *said: status.update(f"ingesting: {said[0]}"))
    table = Table("table", "rows", "days", "first", "last", "seconds", box=None)
    for one in loaded:
        table.add_row(one.table, f"{one.rows:,}", str(one.days), f"{one.first:%Y-%m-%d}", f"{one.last:%Y-%m-%d}", f"{one.seconds:.1f}")
    console.print(table)
    spark.stop()


@app.command()
def apply() -> None:
    """Apply the use case's Feast definitions to the registry."""
    from feature_repo.apply import apply as run

    applied = run(_use_case(_own()))
    console.print(f"applied {len(applied.views)} views, {len(applied.entities)} entities, services: {', '.join(applied.services)}")
    if applied.removed:
        console.print(f"no longer defined, removed from the registry: {', '.join(applied.removed)}")


@app.command()
def backfill(
    view: Annotated[list[str] | None, typer.Option("--view", help="Only this view (may be given several times).")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Ignore latest-value rows before this moment.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The moment to bring the online store to; default: now.")] = None,
    report: Report = None,
) -> None:
    """Bring the online store to the state of one moment, from the offline store."""
    from feature_repo.definition import DefinitionError
    from infra import process, redis_server
    from streaming.backfill import backfill as run
    from streaming.session import session
    from streaming.view import views

    own = _own()
    if process.alive(own, "stream"):
        raise process.ServiceError(
            "the stream is running and would be overtaken: stop it first (`headrace down`), start it again afterwards"
        )
    redis_server.up(own)
    known = views(_use_case(own).store)
    unknown = [v for v in view or [] if v not in known]
    if unknown:
        raise DefinitionError(f"no feature view {', '.join(unknown)} is applied (there is: {', '.join(known)})")
    wanted = [v for name, v in known.items() if not view or name in view]
    end = _moment(to) if to else datetime.now(UTC)
    with console.status("starting Spark"):
        spark = session(own)
    with console.status(f"backfilling {len(wanted)} views to {end:%Y-%m-%d %H:%M}") as status:
        done = run(
            spark,
            wanted,
            own.offline_root,
            own.redis(),
            _us(end),
            _us(_moment(start)) if start else None,
            progress=lambda r: status.update(f"{r.view} done"),
        )
    table = Table("view", "rows", "entities", "newest event", "seconds", box=None)
    for r in done:
        newest = datetime.fromtimestamp(r.newest_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M") if r.newest_us else "-"
        table.add_row(r.view, f"{r.rows:,}", f"{r.entities:,}", f"[red]{r.error}[/red]" if r.error else newest, f"{r.seconds:.1f}")
    console.print(table)
    spark.stop()
    _write(report, done)
    if any(r.error for r in done):
        raise typer.Exit(1)


@app.command()
def train(
    model: Model = "",
    promote: Annotated[bool, typer.Option(help="Make the new version the live one.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Register even if a gate fails (recorded in the contract).")] = False,
) -> None:
    """Build the training set, fit, evaluate, export to ONNX, check the gates, register, promote."""
    from feature_repo import contract
    from streaming.session import session
    from training.register import train_and_register
    from training.summary import metrics_table
    from training.training_set import build

    own = _own()
    case = _use_case(own)
    spec = case.model(_model(case, model))
    with console.status("joining the training set"):
        spark = session(own)
        made = build(spark, case, own, spec)
        spark.stop()
    console.print(f"training set {made.hash[:16]}: {made.rows:,} rows, {len(made.inputs)} inputs")
    with console.status("fitting") as status:
        fitted = train_and_register(
            spec,
            made,
            own,
            force=force,
            progress=lambda done, total, metric: status.update(f"fitting: {done}/{total} rounds, {metric:.4f}"),
        )
    console.print(metrics_table(fitted))
    console.print(f"ONNX differs from LightGBM by at most {fitted.parity.max_abs_difference:.1e} on {fitted.parity.rows:,} rows")
    if promote:
        contract.promote(own.model_root, spec.name, fitted.version)
        console.print(f"[green]{spec.name} version {fitted.version} is live[/green]")


@app.command()
def promote(model: str, version: int) -> None:
    """Make a registered version the live one; a running server picks it up within a second."""
    from feature_repo import contract

    own = _own()
    before = contract.champion(own.model_root, model)
    contract.promote(own.model_root, model, version)
    console.print(f"{model}: version {version} is live (before: {before or 'none'})")


@app.command()
def up() -> None:
    """Start the local services in the background: Redis; then serving, stream and watch as far as there is something for them."""
    from feature_repo import contract
    from infra import redis_server, services

    own = _own()
    case = _use_case(own)
    with console.status("starting redis"):
        redis_server.up(own)
    live = [m for m in case.models if contract.champion(own.model_root, m)]
    wanted = [services.serve()] if live else []
    if (own.state / "registry.db").exists() or own.registry:
        wanted.append(services.stream())
    wanted += [services.watch(m) for m in live]
    for service in wanted:
        with console.status(f"starting {service.name}"):
            services.start(own, service)
    from serving.status import print_status

    print_status(own, console)
    if not live:
        console.print("no model is live yet: `headrace ingest`, `apply`, `backfill`, `train`, then `up` again")


@app.command()
def down() -> None:
    """Stop everything this checkout has started."""
    from infra import services

    own = _own()
    with console.status("stopping") as status:
        stopped = services.stop_all(own, lambda name: status.update(f"stopping {name}"))
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status() -> None:
    """Show the services, each view's state in the online store, and the live models."""
    from serving.status import print_status

    print_status(_own(), console)


@app.command()
def stream() -> None:
    """Keep the online store live from the event stream (foreground; Ctrl-C ends it)."""
    from infra import redis_server
    from streaming.session import session
    from streaming.stream import run
    from streaming.view import views

    own = _own()
    redis_server.up(own)
    known = views(_use_case(own).store)
    spark = session(own)
    run(spark, own.redis(), list(known.values()), str(own.state / "stream"), lambda: print("ready: streaming", flush=True))
    spark.stop()


@app.command()
def serve() -> None:
    """Serve the live models over HTTP (foreground; Ctrl-C ends it)."""
    from infra import redis_server

    own = _own()
    redis_server.up(own)
    from serving.app import run

    run(own)


@app.command()
def watch(
    model: Model = "",
    window: Annotated[int, typer.Option(min=0, help="Predictions per window; 0: the model spec's.")] = 0,
    step: Annotated[int, typer.Option(min=0, help="Predictions from one verdict to the next; 0: the model spec's.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="Judge what is in the log now, then end.")] = False,
) -> None:
    """Watch a model's inputs and scores for drift (foreground; Ctrl-C ends it)."""
    own = _own()
    case = _use_case(own)
    name = _model(case, model)
    from serving.watch import run

    print(f"watching {name}", flush=True)
    chosen = case.model(name).watch
    counts = run(own, case.project, name, window=window or chosen.window, step=step or chosen.step, once=once)
    console.print(", ".join(f"{k} {v:,}" for k, v in counts.items()))


@app.command()
def replay(
    model: Model = "",
    start: Annotated[str | None, typer.Option("--from", help="First day; default: the first day of the model's test split.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The day after the last; default: a day later.")] = None,
    step: Annotated[float, typer.Option(min=1, help="Minutes by which time advances at once.")] = 30,
    report: Report = None,
) -> None:
    """Play history as live traffic: events through the stream, requests over HTTP, labels as feedback. Needs `headrace up`."""
    from serving.rehearsal import rehearse

    own = _own()
    case = _use_case(own)
    spec = case.model(_model(case, model))
    first = _moment(start) if start else (spec.split.test or spec.split.valid).bounds()[0]
    last = _moment(to) if to else datetime.fromtimestamp(first.timestamp() + 86_400, UTC)
    tally = rehearse(own, case, spec, _us(first), _us(last), step, console)
    _write(report, tally)
    if tally.failed:
        errors.print(f"[red]{tally.failed} requests failed; the first: {tally.errors[0]}[/red]")
        raise typer.Exit(1)


@app.command()
def skew(model: Model = "", version: Annotated[int, typer.Option(help="0: the live one.")] = 0, report: Report = None) -> None:
    """Recompute what was served from the offline store and compare it, cell by cell. Exit code 1 if one is wrong."""
    from feature_repo import contract
    from streaming.session import session
    from streaming.store import connect
    from training.skew import prove, read_log
    from training.summary import skew_table

    own = _own()
    case = _use_case(own)
    name = _model(case, model)
    number = version or contract.champion(own.model_root, name) or 0
    made = contract.load(own.model_root / name / str(number))
    log = read_log(connect(own.redis()), case.project, name, number)
    with console.status(f"recomputing {len(log):,} predictions"):
        spark = session(own)
        result = prove(spark, case, own, made, log)
        spark.stop()
    console.print(skew_table(result))
    for one in result.examples[:5]:
        errors.print(f"wrong: {one.feature} of {one.prediction}: served {one.served}, recomputed {one.recomputed}")
    console.print(
        f"{result.predictions:,} predictions, {result.cells:,} cells: {result.wrong} wrong, {result.late / result.cells:.2%} late"
    )
    _write(report, result.summary())
    if result.wrong:
        raise typer.Exit(1)


@app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_tests(
    ctx: typer.Context, fast: Annotated[bool, typer.Option("--fast", help="Unit tests only: no service is started.")] = False
) -> None:
    """Run the test suite (further arguments go to pytest)."""
    chosen = ["-m", "not integration"] if fast else []
    os.chdir(ROOT)
    # in this process's place: a Ctrl-C then lets pytest stop the services it started, instead of killing it a moment later
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *chosen, *ctx.args])


@app.command()
def version() -> None:
    """Print the version."""
    console.print(f"headrace {VERSION}")


if __name__ == "__main__":
    run_app(app)
