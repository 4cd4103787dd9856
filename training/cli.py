"""The commands of this room: plan, check, train, promote, skew. Heavy things are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from infra.cli import Model, Report, console, errors, model_name, moment, own_settings, write_report
from infra.timestamps import microseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feature_repo.registry.plan import Plan
    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings
    from streaming.backfill.estimate import Size
    from streaming.backfill.run import Planned
    from streaming.versions.data_version import DataVersion
    from training.evaluation.definition_change import Moved

DataVersionAsked = Annotated[
    str | None,
    typer.Option("--data-version", help="The tables as they were: a number (`headrace versions`) or a moment. Default: as they are."),
]


def _asked(own: Settings, said: str | None) -> DataVersion | None:
    """The data version that `--data-version` names.

    Raises:
        VersionError: there is none such.
    """
    from streaming.versions.data_version import find

    if said is None:
        return None
    return find(own.offline_root, said if said.isdigit() else f"@{microseconds(moment(said))}")


def train(
    model: Model = "",
    promote: Annotated[bool, typer.Option(help="Make the new version the live one.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Register even if its data or a gate fails (recorded in the contract).")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Look for parameters first, with Optuna (the spec's `search`).")] = False,
    as_of: Annotated[str | None, typer.Option("--as-of", help="Use only what was known by this moment; default: all there is.")] = None,
    data_version: DataVersionAsked = None,
) -> None:
    """Build the training set, fit, evaluate, export to ONNX, check the gates, register, promote."""
    from feature_repo.records import release
    from feature_repo.registry.definitions import service_projections
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.spark import session
    from training.data.training_set import build
    from training.registration.register import train_and_register
    from training.tables import metrics_table

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
    upto_us = microseconds(moment(as_of)) if as_of else None
    data = _asked(own, data_version)
    service_projections(case.store, spec.feature_service)  # said before Spark is started
    with console.status("joining the training set"):
        spark = session(own)
        made = build(spark, case, own, spec, upto_us, data=data)
        spark.stop()
    of = f", of data version {made.data.number}" if made.data else ""
    console.print(f"training set {made.hash[:16]}: {made.rows:,} rows, {len(made.inputs)} inputs{of}")
    with console.status("fitting") as status:
        fitted = train_and_register(
            spec,
            made,
            own,
            force=force,
            tune=tune,
            told=lambda done, total, best: status.update(f"searching: {done}/{total} trials, log loss {best:.4f}"),
            progress=lambda done, total, metric: status.update(f"fitting: {done}/{total} rounds, {metric:.4f}"),
        )
    console.print(metrics_table(fitted))
    console.print(f"ONNX differs from LightGBM by at most {fitted.parity.max_abs_difference:.1e} on {fitted.parity.rows:,} rows")
    if promote:
        release.promote(own.model_root, spec.name, fitted.version)
        console.print(f"[green]{spec.name} version {fitted.version} is live[/green]")


def plan(
    requests: Annotated[int, typer.Option(min=0, help="Logged requests to score under the old and the new definitions; 0: none.")] = 500,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 2 where something would change.")] = False,
    report: Report = None,
) -> None:
    """Show what `apply` would change: definitions, live models, backfills, bytes, predictions. Changes nothing."""
    from feature_repo.records import release
    from feature_repo.registry.plan import applied, proposed
    from feature_repo.registry.plan import make_plan as compare
    from feature_repo.spec.use_case import UseCase
    from infra.supervision import redis_server
    from streaming.backfill.estimate import estimate_size
    from streaming.backfill.run import plan as plan_backfill
    from streaming.online.store import connect
    from streaming.schema.compilation import check_view as check_definitions
    from streaming.schema.compilation import usable
    from streaming.schema.feature_view import views
    from streaming.status import known_entities, size
    from training.evaluation import definition_change

    own = own_settings()
    redis_server.up(own)
    client = connect(own.redis())
    case = UseCase(own.repo)
    with console.status("comparing") as status, applied(case) as case, proposed(case) as after:
        check_definitions(after.store, {m.name: m.feature_service for m in case.models.values()})
        found = compare(case, after, own)
        (old, unusable), new = usable(case.store), views(after.store)
        planned = plan_backfill([new[name] for name in found.backfill], own.offline_root, client, None)
        status.update("measuring")
        sizes = {p.view: estimate_size(new[p.view], own.offline_root, p) for p in planned}
        held = {name: size(client, v, known_entities(client, v)[0]) for name, v in old.items()}
        moved = {}
        for model in found.readers if found.changes and requests else []:
            status.update(f"scoring logged requests of {model}")
            made = release.verified(own.model_root, model, release.champion(own.model_root, model) or 0)
            moved[model] = definition_change.with_and_without(
                case, after, own, made, definition_change.last_requests(client, case.project, model, requests)
            )
    for fault in unusable.values():
        console.print(f"[yellow]is applied, and cannot be used:[/yellow] {escape(fault)}")
    _show_plan(found, planned, held, sizes)
    _show_moved(moved)
    for model, features in found.broken.items():
        errors.print(
            f"[red]{model} could no longer be served[/red]: {', '.join(features[:8])}; `apply` refuses this without --allow-breaking"
        )
    write_report(report, {"plan": found, "backfill": planned, "bytes_now": held, "bytes_then": sizes, "predictions": moved})
    if exit_code and found.changes:
        raise typer.Exit(2)


def _show_plan(found: Plan, planned: Sequence[Planned], held: dict[str, int], sizes: dict[str, Size | None]) -> None:
    """What would change, what is to be backfilled, and who reads it."""
    from streaming.tables import backfill_plan_table

    for change in found.changes:
        console.print(f"{change.what} [bold]{change.name}[/bold]: {escape(change.text)}")
    if not found.changes:
        console.print("nothing would change")
    if planned:
        console.print(backfill_plan_table(planned, held, sizes))
    for p in planned:
        if p.error:
            console.print(f"[red]{p.view}:[/red] {escape(p.error)}", soft_wrap=True)
    for name in found.removed:
        console.print(f"{name}: {held.get(name, 0) / 1e6:.1f} MB in Redis would be deleted")
    for model, features in found.readers.items():
        if features:
            console.print(f"model {model} reads {', '.join(features)}")


def _show_moved(moved: dict[str, Moved | str]) -> None:
    """How logged requests would be scored under the new definitions."""
    for model, one in moved.items():
        if isinstance(one, str):
            console.print(f"model {model}: {one}")
            continue
        console.print(
            f"model {model}: over the last {one.requests:,} requests scores would move by {one.mean:.4f} on average, {one.largest:.4f} at most; "
            f"{one.share:.1%} by more than .01; rank correlation {one.rank:.4f}"
        )
        for feature, share in one.features[:8]:
            console.print(f"  {feature} differs in {share:.1%} of them")


def check(
    leakage: Annotated[bool, typer.Option("--leakage", help="No feature may move when what was not known at its moment changes.")] = False,
    training_set: Annotated[
        str | None, typer.Option("--training-set", help="A model (its live version's set) or a file: derive it again and compare.")
    ] = None,
    moments: Annotated[int, typer.Option(min=1, help="Moments per model.")] = 3,
    examples: Annotated[int, typer.Option(min=1, help="Examples per moment.")] = 200,
    report: Report = None,
) -> None:
    """Check the use case's features against its own data."""
    from feature_repo.spec.use_case import UseCase
    from training.data import leakage as leaks
    from training.tables import leakage_table

    if leakage == (training_set is not None):
        raise typer.BadParameter("say what to check: --leakage, or --training-set MODEL")
    own = own_settings()
    case = UseCase(own.repo)
    if training_set is not None:
        _check_training_set(case, own, training_set, report)
        return
    with console.status("checking") as status:
        checked = leaks.find_leaks(case, own, moments, examples, lambda text: status.update(f"checking {text}"))
    console.print(leakage_table(checked))
    for leak in checked.leaks[:20]:
        errors.print(
            f"[red]leak:[/red] {leak.feature} at {leak.moment}: {leak.moved} of {leak.examples} examples moved when only rows changed that were "
            f"not known yet (one was {leak.before}, became {leak.after})"
        )
    for view, why in checked.untested.items():
        errors.print(f"[yellow]not tested:[/yellow] {view}: {why}")
    write_report(report, {**checked.__dict__, "features": sorted(checked.features)})
    if checked.leaks:
        errors.print(
            "look at the view's timestamp_field and created_timestamp_column: they must say when a row happened and when it was known; "
            "and at what the label's columns are used for"
        )
        raise typer.Exit(1)
    tested = checked.tested
    asked = f"{checked.examples} examples at {len(checked.moments)} moments"
    left = len(checked.features) - len(tested)
    if tested:
        more = f"; {left} features were not tested (above)" if left else ""
        console.print(f"no leak in the {len(tested)} features that were tested, {asked}{more}")
    else:
        errors.print(f"[yellow]nothing could be tested:[/yellow] no row of any table was unknown at the moments asked for ({asked})")


def _check_training_set(case: UseCase, own: Settings, which: str, report: Path | None) -> None:
    from feature_repo.records import release
    from streaming.offline.spark import session
    from training.data import manifest
    from training.data.training_set import rebuild

    path = Path(which)
    if which in case.models:
        number = release.champion(own.model_root, which)
        if number is None:
            raise ValueError(f"no version of {which} is live: give the path of a training set")
        made = release.verified(own.model_root, which, number)
        path = own.state / "training_sets" / which / f"{made.training_set['hash'][:16]}.parquet"
    if not path.exists():
        raise FileNotFoundError(f"no training set at {path}; models with one: {', '.join(case.models)}")
    before = manifest.load(path)
    with console.status("deriving it again"):
        spark = session(own)
        found = rebuild(spark, case, own, case.model(before.model), path)
        spark.stop()
    write_report(report, found)
    if found is None:
        console.print(
            f"{path.name}: the same bytes again (identity {before.identity[:16]}, known up to {manifest.moment(before.known_upto_us)})"
        )
        return
    for line in found.partitions:
        errors.print(f"changed: {line}")
    for ids, cells in found.rows[:10]:
        shown = ", ".join(f"{name} {a} -> {b}" for name, a, b in cells[:4])
        errors.print(f"example {', '.join(f'{k}={v}' for k, v in ids.items())}: {shown}{' ...' if len(cells) > 4 else ''}")
    errors.print(f"[red]not the same:[/red] {found.changed:,} examples changed, {found.added:,} are new, {found.gone:,} are gone")
    raise typer.Exit(1)


def skew(
    model: Model = "",
    version: Annotated[int, typer.Option(min=0, help="0: the live one.")] = 0,
    data_version: DataVersionAsked = None,
    report: Report = None,
) -> None:
    """Recompute what was served from the offline store and compare it, cell by cell."""
    from feature_repo.records import release
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.archive import of
    from streaming.offline.spark import session
    from streaming.online.store import connect
    from streaming.skew.proof import prove, read_log
    from streaming.versions.pinned import reading
    from training.tables import skew_table

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
    number = version or release.live(own.model_root, name)
    made = release.verified(own.model_root, name, number)
    log = read_log(connect(own.redis()), case.project, name, number, of(own, case.project))
    with console.status(f"recomputing {len(log):,} predictions"), reading(own.offline_root, _asked(own, data_version)):
        spark = session(own)
        result = prove(lambda: spark, case, own, made, log)
        spark.stop()
    console.print(skew_table(result))
    for one in result.examples[:5]:
        errors.print(f"{one.cause}: {one.feature} of {one.prediction}: served {one.served}, recomputed {one.recomputed}")
    console.print(
        f"{result.predictions:,} predictions, {result.cells:,} cells: {result.wrong} wrong, {result.late / result.cells:.2%} late"
    )
    console.print(f"causes: {', '.join(f'{cause} {n:,}' for cause, n in result.causes.items()) or 'no difference'}")
    for reason, n in result.passed_over.items():
        errors.print(f"passed over: {n:,} with {reason}")
    write_report(report, result.summary())
    if result.wrong:
        raise typer.Exit(1)


def reproduce(
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[int, typer.Argument(min=1, help="A registered version of it.")],
    data_version: Annotated[
        str | None,
        typer.Option("--data-version", help="The tables as they were: a number or a moment. Default: what it was made of, if still there."),
    ] = None,
    report: Report = None,
) -> None:
    """Make a version again, from the same data and spec, and say whether it is the same to the byte."""
    import contextlib
    from typing import Any

    from feature_repo.records import release
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.spark import session
    from training.registration.reproduce import make_again as again

    own = own_settings()
    case = UseCase(own.repo)
    made = release.verified(own.model_root, model_name(case, model), version)
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("starting"))
        sessions: list[Any] = []

        def spark() -> Any:
            if not sessions:
                sessions.append(session(own))
                stack.callback(sessions[0].stop)
            return sessions[0]

        found = again(spark, case, own, made, status.update, _asked(own, data_version))
    write_report(report, found)
    if made.training_set.get("data_version") and not found.data_version:
        errors.print(f"data version {made.training_set['data_version']} is not there any more: made from the tables as they are")
    elif found.data_version:
        console.print(f"from data version {found.data_version}")
    if found.restored:
        console.print(f"the training set's file was lost, and is there again: {made.training_set['path']}")
    for name, (then, now) in found.hashes.items():
        mark = "[green]the same[/green]" if then == now else f"[red]was {then[:16]}, is {now[:16]}[/red]"
        console.print(f"{name:<14} {now[:16]}  {mark}")
    for line in found.changed[:20]:
        errors.print(f"changed: {line}")
    for name, (then, now) in found.environment.items():
        errors.print(f"{name} was {then}, is {now}: a fit may differ for that alone")
    if not found.same:
        errors.print(f"[red]not the same:[/red] {made.model} version {version}")
        raise typer.Exit(1)
    console.print(f"{made.model} version {version} is what its data and spec make, to the byte")
