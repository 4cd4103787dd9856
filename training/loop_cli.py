"""The commands of the learning loop: archive, quality, retrain, autopilot. Heavy things are imported where they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from infra.cli import Model, Report, console, errors, model_name, moment, own_settings, print_indented, write_report
from infra.timestamps import microseconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from pyspark.sql import SparkSession

    from feature_repo.records.answers import Given
    from infra.settings import Settings
    from training.alarm_report import Work
    from training.gates.record import Gates
    from training.retraining.alarm import Row
    from training.retraining.backtest import Drift
    from training.retraining.simulation_port import Loop


def loop(own: Settings, drift: Drift) -> Loop:
    """The learning loop for a staged run: see `training.retraining.simulation_port`."""
    from training.retraining.simulation_port import Loop

    return Loop(own, drift)


def archive(
    allow_most: Annotated[
        bool, typer.Option("--allow-most", help="Delete what is past HEADRACE_ARCHIVE_DAYS even where it is most of a table.")
    ] = False,
    report: Report = None,
) -> None:
    """Move logged predictions and their truths from Redis to the offline store: tables predictions_<model> and labels_<model>."""
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.archive import of
    from streaming.online.store import connect

    own = own_settings()
    with console.status("archiving"):
        most = 1.0 if allow_most else own.delete_share
        taken = of(own, UseCase(own.repo).project)
        done = taken.run(connect(own.redis()), keep_days=own.archive_days, most=most, tolerance_s=own.clock_tolerance_s)
    console.print(f"{done.predictions:,} predictions and {done.labels:,} truths archived; {done.unreadable:,} entries were none")
    for before, after in done.gaps:
        console.print(f"[yellow]gap:[/yellow] entries between {before} and {after} may have been trimmed unread (HEADRACE_LOG_RETENTION)")
    for spared in done.spared:
        console.print(f"[red]not deleted:[/red] {spared}, more than a share of {own.delete_share:g} (--allow-most deletes them)")
    write_report(report, done)
    if done.spared:
        raise typer.Exit(1)


def quality(
    model: Model = "",
    months: Annotated[bool, typer.Option("--months", help="By month, all that is archived.")] = False,
    report: Report = None,
) -> None:
    """How good the live answers are, by the truths that came in: by version, day and slice, with intervals."""
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.archive import of
    from streaming.online.store import connect
    from training.loop_tables import periods_table, quality_table
    from training.monitoring.live_quality import by_month, measure, publish

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
    archived, client = of(own, case.project), connect(own.redis())
    with console.status("measuring"):
        archived.run(client, keep_days=own.archive_days, most=own.delete_share, tolerance_s=own.clock_tolerance_s)
        found = measure(archived, spec)
        periods = by_month(archived, spec) if months else None
    if found is None:
        raise ValueError(f"no prediction of {spec.name} has been logged yet: serve some first (`headrace replay`)")
    publish(client, case.project, found)
    console.print(quality_table(found))
    console.print(periods_table("day", found.days[-14:]) if periods is None else periods_table("month", periods))
    if found.delay_s:
        console.print(f"truth comes {found.delay_s['p50'] / 60:.0f} min after the answer (p50; p99 {found.delay_s['p99'] / 60:.0f} min)")
    console.print(f"{found.unlabelled:,} answers have no truth yet")
    write_report(report, found)


# wide: one for each option of the command
def retrain(
    model: Model = "",
    why: Annotated[str, typer.Option(help="Kept with the version and in the journal.")] = "",
    as_of: Annotated[str | None, typer.Option("--as-of", help="Use only what was known by this moment; default: all there is.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Leave it to the running autopilot, which then also lets it out in stages.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Let it pass the gates it fails (recorded in the journal).")] = False,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            "--leave-out",
            metavar="FROM/TO",
            help="Learn from no example of this ISO interval (a date as its end: all that day); may be given again.",
        ),
    ] = None,
    trigger: Annotated[str, typer.Option(hidden=True)] = "",
    report: Report = None,
) -> None:
    """Train a new version with the spec's splits moved up to now, and put it through every gate. Promotes nothing."""
    import contextlib

    import msgspec

    from feature_repo.spec.use_case import UseCase
    from training.data.left_out import interval_of
    from training.data.training_set import newest_known
    from training.gates import challenge, record
    from training.loop_tables import gates_table, moment_text
    from training.retraining import retrain as steps
    from training.retraining.alarm import joined

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
    if ask:
        if leave_out:
            raise ValueError("with --ask the autopilot leaves out what is proven to be at fault; --leave-out is for a training of your own")
        _ask(own, spec.name, why)
        return
    spans = joined([interval_of(text) for text in leave_out or ()])
    now_us = microseconds(moment(as_of)) if as_of else newest_known(case, own, spec)
    identity = trigger or steps.request_id(now_us, spans)
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("waiting for another training of this model to end"))
        stack.enter_context(steps.alone(own, spec.name))
        status.update("starting")
        spark = _when_needed(own, stack)
        version = steps.train_again(spark, case, own, spec, steps.Order(identity, why, now_us, spans), status.update)
        status.update(f"version {version}: gates")
        found = record.read_gates(own, spec.name, version) if trigger else None  # a person who asks again wants them measured again
        gates = found or challenge.examine(spark, case, own, spec, version)
    if force and not gates.passed:
        gates = msgspec.structs.replace(gates, forced=True)
        _note_force(own, gates, spec.name, identity, now_us)
    record.write_gates(own, spec.name, gates)
    console.print(f"{spec.name} version {version} is registered, trained on what was known by {moment_text(now_us)}")
    console.print(gates_table(gates))
    write_report(report, gates)
    if not gates.passed and not gates.forced:
        errors.print("[red]not to be let out:[/red] a gate failed")
        raise typer.Exit(1)
    console.print(f"next: `headrace shadow {spec.name} {version}`, or leave it to `headrace autopilot` (`headrace retrain --ask`)")


def _when_needed(own: Settings, stack: ExitStack) -> Callable[[], SparkSession]:
    """A Spark session that is started when it is first asked for, and stopped with the stack."""
    from streaming.offline.spark import session

    made: list[SparkSession] = []

    def spark() -> SparkSession:
        if not made:
            made.append(session(own))
            stack.callback(made[0].stop)
        return made[0]

    return spark


def _note_force(own: Settings, gates: Gates, name: str, identity: str, now_us: int) -> None:
    """Say in the journal which gates a person has let a version pass."""
    import time

    from feature_repo.records.decisions import Decision, Journal

    failed, wall_us = ", ".join(c.name for c in gates.checks if not c.passed), time.time_ns() // 1000
    forced = Decision(f"{identity}/forced", now_us, wall_us, "forced", f"passed by force: {failed}", gates.version)
    Journal(own.state, name).write(forced)


def _ask(own: Settings, name: str, why: str) -> None:
    """Leave a request for the autopilot."""
    from feature_repo.records import release
    from infra import files

    path = own.state / "autopilot" / name / "request"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, (why or "asked for").encode())
    console.print(f"asked: the autopilot trains {name} at its next step (`headrace autopilot` runs it)")
    if not release.champion_if_any(own.model_root, name):
        console.print(f"[yellow]it waits:[/yellow] no version of {name} is live yet (`headrace train` makes the first)")


def alarm(
    model: Model = "",
    confirm: Annotated[
        str | None, typer.Option("--confirm", help="It is a fault, and why: the drift trigger is held until it is over.")
    ] = None,
    dismiss: Annotated[str | None, typer.Option("--dismiss", help="It is no fault, and why: the drift trigger is held no longer.")] = None,
) -> None:
    """What the watch's alarm is taken for, what is held because of it and until when; and a person's word on it."""
    from feature_repo.records import release
    from feature_repo.records.answers import read_given
    from feature_repo.records.verdict import history
    from feature_repo.spec.use_case import UseCase
    from streaming.tables import odd_sources
    from training.alarm_report import print_alarm, work_of
    from training.retraining import loop_state
    from training.retraining.alarm import Row

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
    if confirm is not None and dismiss is not None:
        raise typer.BadParameter("either --confirm or --dismiss: a word is for or against")
    live = release.champion(own.model_root, name)
    if live is None:
        raise release.ReleaseError(
            f"no version of {name} is live, so nothing is watched: `headrace train` makes the first one live, `headrace up` starts the watch"
        )
    state, given = loop_state.read(own.state / "autopilot" / name), read_given(own.state, name)
    row = state.row if state.row.version == live else Row(live)
    work = work_of(own, case.project, name)
    if confirm is not None:
        _note_answer(own, name, ("--confirm", "confirmed", confirm.strip()), row, given, work)
    elif dismiss is not None:
        _note_answer(own, name, ("--dismiss", "dismissed", dismiss.strip()), row, given, work)
    else:
        newest = next((v for v in reversed(history(own, name)) if v.version == live), None)
        print_alarm(console, name, row, state.held, newest, given, work)
        for line in odd_sources(own.state, case.project, work.clock_us):
            print_indented(console, line, 0)


# wide: the word, and all that it may meet
def _note_answer(
    own: Settings, name: str, word: tuple[str, Literal["confirmed", "dismissed"], str], row: Row, given: Given | None, work: Work
) -> None:
    """Keep a person's word on the alarm for the autopilot's next step."""
    import msgspec

    from infra import files
    from training.retraining.alarm import word_on

    option, said, why = word
    if not why:
        raise typer.BadParameter(f"{option} needs a reason in words, such as {option} 'the sensor was replaced': it is kept in the journal")
    if row.alarm is None:
        errors.print(
            f"[yellow]nothing is noted:[/yellow] the autopilot knows of no alarm on {name} (`headrace alarm {name}` shows what it is at)"
        )
        raise typer.Exit(1)
    before = str(given) if given is not None else f"{row.alarm.answer}: {row.alarm.why}" if row.alarm.answer else ""
    if before:
        console.print(f"replaces: {escape(before)}")
    files.replace(own.state / "autopilot" / name / "answer", msgspec.json.encode(word_on(row.alarm, said, why)))
    if work.autopilot:
        console.print("noted: the autopilot hears it at its next step")
    else:
        console.print(f"noted; no autopilot runs to hear it: `headrace up`, or `headrace autopilot {name}`")


def autopilot(
    model: Model = "",
    once: Annotated[bool, typer.Option("--once", help="Take one step and end, for cron or a Kubernetes CronJob.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds from one step to the next.")] = 30,
) -> None:
    """Run the learning loop: archive, measure, retrain when a trigger says so, let the challenger out in stages, roll back."""
    import logging
    import signal
    import threading

    from feature_repo.spec.use_case import UseCase
    from infra.supervision.beat import Pulse
    from streaming.online.store import connect
    from training.retraining.autopilot import ROUND_S, Autopilot, run
    from training.retraining.trainer_process import Trainer

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
    stop = threading.Event()
    pulse = Pulse(own.redis(), case.project, f"autopilot-{name}", max(every, ROUND_S))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pilot = Autopilot(connect(own.redis()), own, case, name, Trainer(own, name, stop, waiting=pulse.touch))
    if once:
        console.print(pilot.step())
        return
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("headrace").setLevel(logging.INFO)
    print(f"autopilot of {name}: a step every {every:g} s", flush=True)
    with pulse:
        run(pilot, every, stop, pulse.beat)


def compare(
    model: Model = "",
    version: Annotated[int, typer.Option(min=0, help="0: the canary, the shadow, or the live one against the one before.")] = 0,
    against: Annotated[int, typer.Option(min=0, help="0: the live version.")] = 0,
    report: Report = None,
) -> None:
    """Compare two versions on what was really asked: the same logged requests and their truths, with intervals and significance."""
    from feature_repo.records import release
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.archive import of
    from streaming.online.store import connect
    from training.loop_tables import comparison_table
    from training.retraining.version_comparison import head_to_head

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
    now = release.read(own.model_root, spec.name)
    if now is None:
        raise release.ReleaseError(f"no version of {spec.name} is live: run `headrace train`")
    beside = now.canary or now.shadow
    mine = version or beside or now.champion
    other = against or (now.champion if mine != now.champion else now.previous)
    if other is None or other == mine:
        raise ValueError(f"there is nothing to compare version {mine} with: name another with --against")
    archived = of(own, case.project)
    with console.status("comparing"):
        archived.run(connect(own.redis()), keep_days=own.archive_days, most=own.delete_share, tolerance_s=own.clock_tolerance_s)
        found = head_to_head(archived, own.model_root, spec, mine, other)
    console.print(comparison_table(found))
    console.print(found.verdict)
    write_report(report, found)
