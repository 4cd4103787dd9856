"""Results of training and of the skew proof as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from feature_repo.records.contract import Contract
from streaming.skew.proof import SkewResult
from training.data.leakage import LeakCheck


def metrics_table(made: Contract) -> Table:
    """A row per split, a column per metric."""
    table = Table("set", *next(iter(made.metrics.values())), box=None)
    for name, metrics in made.metrics.items():
        table.add_row(name, *(f"{v:,.0f}" if k == "rows" else f"{v:.4f}" for k, v in metrics.items()))
    return table


def skew_table(result: SkewResult) -> Table:
    """A row per view."""
    table = Table("view", "cells", "wrong", "late", "late by p50 / p99", box=None)
    for view in result.views:
        lag = result.lag_s(view)
        behind = f"{lag['p50']:.0f} / {lag['p99']:.0f} s" if lag else "-"
        table.add_row(view.view, f"{view.cells:,}", str(view.wrong), f"{view.late / view.cells:.2%}", behind)
    return table


def leakage_table(checked: LeakCheck) -> Table:
    """A row per view: rows that were not known yet and were changed, features that moved."""
    table = Table("view", "unknown rows changed", "features", "leaking", box=None)
    for view, rows in sorted(checked.perturbed.items()):
        mine = [f for f in checked.features if f.startswith(f"{view}__")]
        leaking = {leak.feature for leak in checked.leaks} & set(mine)
        table.add_row(view, f"{rows:,}", str(len(mine)), f"[red]{len(leaking)}[/red]" if leaking else "0")
    return table
