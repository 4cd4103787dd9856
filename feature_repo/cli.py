"""The commands that decide what answers - promote, rollback, canary, shadow - and why. A running server follows within a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli import console, model_name, own_settings, plain_name
from infra.timestamps import minute_text

if TYPE_CHECKING:
    from feature_repo.records.decisions import Decision

Name = Annotated[str, typer.Argument(help="The model.", callback=plain_name)]
Version = Annotated[int, typer.Argument(min=1, help="A registered version of it.")]
Candidate = Annotated[int, typer.Argument(min=0, help="A registered version of it; 0: none any more.")]
Why = Annotated[str, typer.Option(help="Kept in the release's history.")]


def promote(model: Name, version: Version, why: Why = "") -> None:
    """Make a registered version the live one. What was live stays loaded, for `rollback`."""
    from feature_repo.records import release

    own = own_settings()
    before = release.champion_if_any(own.model_root, model)
    release.promote(own.model_root, model, version, why)
    console.print(f"{model}: version {version} is live (before: {before or 'none'})")


def rollback(model: Name, why: Why = "") -> None:
    """Go back to the version that was live before; ends a canary and a shadow."""
    from feature_repo.records import release

    own = own_settings()
    before = release.champion(own.model_root, model)
    now = release.roll_back(own.model_root, model, why)
    console.print(f"{model}: version {now.champion} is live again (before: {before})")


def canary(
    model: Name, version: Candidate, share: Annotated[float, typer.Option(help="Of keys it answers, 0 to 1.")] = 0.1, why: Why = ""
) -> None:
    """Let a version answer for a share of entities: always the same ones, and more of them as the share grows."""
    from feature_repo.records import release

    now = release.canary(own_settings().model_root, model, version or None, share, why)
    console.print(
        f"{model}: version {now.canary} answers {now.share:.0%} of keys, version {now.champion} the others"
        if now.canary
        else f"{model}: no canary; version {now.champion} answers everything"
    )


def shadow(model: Name, version: Candidate, why: Why = "") -> None:
    """Score and log a version beside the live one, on the same requests; it never answers."""
    from feature_repo.records import release

    now = release.shadow(own_settings().model_root, model, version or None, why)
    console.print(
        f"{model}: version {now.shadow} is scored and logged beside version {now.champion}" if now.shadow else f"{model}: no shadow"
    )


def why(model: Annotated[str, typer.Argument(help="The model's name; default: the only one of the use case.")] = "") -> None:
    """Why this version is live: every step of its release, the data, the run and the gates behind it."""
    from rich.markup import escape
    from rich.table import Table

    from feature_repo.records import release
    from feature_repo.records.answers import read_given
    from feature_repo.records.decisions import Journal
    from feature_repo.records.held import read_held
    from feature_repo.spec.use_case import UseCase

    own = own_settings()
    name = model_name(UseCase(own.repo), model)
    now = release.read(own.model_root, name)
    if now is None:
        raise release.ReleaseError(f"no version of {name} is live: run `headrace train`")
    made = release.load(own.model_root, name, now.champion, now)
    console.print(f"{name} version {now.champion} is live")
    steps = Table("when", "step", "why", box=None, pad_edge=False)
    for step in now.history:
        steps.add_row(step.at.removesuffix("+00:00").replace("T", " "), step.what, step.why)
    console.print(steps)
    _chain([d for d in Journal(own.state, name).read() if d.id.startswith(f"{made.provenance.get('trigger')}/")])
    listed = read_held(own.state, name)
    for one in listed.held if listed is not None else []:
        until = f" (at the latest {minute_text(one.until_us)})" if one.until_us is not None else ""
        console.print(f"held: {one.what}: {escape(one.text)}{until}", soft_wrap=True)
    if given := read_given(own.state, name):
        console.print(f"a person's word on the alarm, given, not yet heard: {escape(str(given))}", soft_wrap=True)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for what, value in (
        ("data", f"{made.training_set.get('rows', 0):,} examples, training set {str(made.training_set.get('hash', ''))[:16]}"),
        ("left out", made.provenance.get("left_out", "")),
        ("split", ", ".join(f"{part} {start} to {end}" for part, (start, end) in made.split.items())),
        ("features", f"{made.feature_service}, {len(made.inputs)} inputs, definitions {made.definition_hash[:16]}"),
        ("trigger", made.provenance.get("reason", "") or "by hand"),
        ("run", made.run_id),
        ("made", made.created),
        ("quality", ", ".join(f"{part} AUC {m['auc']:.4f}" for part, m in made.metrics.items() if "auc" in m)),
        ("export", f"ONNX within {made.parity.max_abs_difference:.1g} on {made.parity.rows:,} rows"),
    ):
        if value or what != "left out":
            facts.add_row(f"[dim]{what}[/dim]", value)
    console.print(facts)
    for gate in made.gates:
        bounds = " and ".join(
            f"{word} {gate[bound]:g}" for bound, word in (("min", "at least"), ("max", "at most")) if gate.get(bound) is not None
        )
        where = " ".join(str(gate[k]) for k in ("on", "slice") if gate.get(k))
        measured = "not measured" if gate.get("measured") is None else f"{gate['measured']:.4g}"
        mark = "[green]passed[/green]" if gate.get("passed") else "[red]failed, registered by force[/red]"
        console.print(f"gate {gate.get('metric')} on {where}: {measured}{f', {bounds}' if bounds else ''}: {mark}")


def _chain(decisions: list[Decision]) -> None:
    """What the learning loop decided about the version: from the trigger over gates and stages to the promotion."""
    from rich.markup import escape
    from rich.table import Table

    if not decisions:
        return
    table = Table("in the predictions' time", "decision", "why", box=None, pad_edge=False)
    for one in decisions:
        at = minute_text(one.at_us)
        table.add_row(at, one.step, escape(one.text))
        for name, text in one.facts.items():
            table.add_row("", f"[dim]{name}[/dim]", f"[dim]{escape(text)}[/dim]")
    console.print(table)
