"""The commands of this room: train, promote, skew. Heavy things are imported where they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.command_line import Model, Report, console, errors, model_name, own_settings, write_report


def train(
    model: Model = "",
    promote: Annotated[bool, typer.Option(help="Make the new version the live one.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Register even if a gate fails (recorded in the contract).")] = False,
) -> None:
    """Build the training set, fit, evaluate, export to ONNX, check the gates, register, promote."""
    from feature_repo import contract
    from feature_repo.use_case import UseCase
    from streaming.session import session
    from training.register import train_and_register
    from training.summary import metrics_table
    from training.training_set import build

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
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


def promote(model: str, version: int) -> None:
    """Make a registered version the live one; a running server picks it up within a second."""
    from feature_repo import contract

    own = own_settings()
    before = contract.champion(own.model_root, model)
    contract.promote(own.model_root, model, version)
    console.print(f"{model}: version {version} is live (before: {before or 'none'})")


def skew(model: Model = "", version: Annotated[int, typer.Option(help="0: the live one.")] = 0, report: Report = None) -> None:
    """Recompute what was served from the offline store and compare it, cell by cell. Exit code 1 if one is wrong."""
    from feature_repo import contract
    from feature_repo.use_case import UseCase
    from streaming.session import session
    from streaming.store import connect
    from training.skew import prove, read_log
    from training.summary import skew_table

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
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
    write_report(report, result.summary())
    if result.wrong:
        raise typer.Exit(1)
