"""The commands that decide what answers: promote, rollback, canary, shadow. A running server follows within a second."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.command_line import console, own_settings

Name = Annotated[str, typer.Argument(help="The model.")]
Version = Annotated[int, typer.Argument(help="A registered version of it.")]
Candidate = Annotated[int, typer.Argument(help="A registered version of it; 0: none any more.")]
Why = Annotated[str, typer.Option(help="Kept in the release's history.")]


def promote(model: Name, version: Version, why: Why = "") -> None:
    """Make a registered version the live one. What was live stays loaded, for `rollback`."""
    from feature_repo import release

    own = own_settings()
    before = release.champion(own.model_root, model)
    release.promote(own.model_root, model, version, why)
    console.print(f"{model}: version {version} is live (before: {before or 'none'})")


def rollback(model: Name, why: Why = "") -> None:
    """Go back to the version that was live before; ends a canary and a shadow."""
    from feature_repo import release

    own = own_settings()
    before = release.champion(own.model_root, model)
    now = release.roll_back(own.model_root, model, why)
    console.print(f"{model}: version {now.champion} is live again (before: {before})")


def canary(
    model: Name, version: Candidate, share: Annotated[float, typer.Option(help="Of keys it answers, 0 to 1.")] = 0.1, why: Why = ""
) -> None:
    """Let a version answer for a share of entities: always the same ones, and more of them as the share grows."""
    from feature_repo import release

    now = release.canary(own_settings().model_root, model, version or None, share, why)
    console.print(
        f"{model}: version {now.canary} answers {now.share:.0%} of keys, version {now.champion} the others"
        if now.canary
        else f"{model}: no canary; version {now.champion} answers everything"
    )


def shadow(model: Name, version: Candidate, why: Why = "") -> None:
    """Score and log a version beside the live one, on the same requests; it never answers."""
    from feature_repo import release

    now = release.shadow(own_settings().model_root, model, version or None, why)
    console.print(
        f"{model}: version {now.shadow} is scored and logged beside version {now.champion}" if now.shadow else f"{model}: no shadow"
    )
