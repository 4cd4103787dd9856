"""The page of all that can be added: every member of every table, with what its module and its class say of it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable


def kinds() -> str:
    """Aggregations, metrics, triggers, gates, kinds of drift, detectors and event sources, each from its table."""
    from importlib import import_module

    from feature_repo.metrics.table import METRICS
    from feature_repo.triggers.table import TRIGGERS
    from serving.monitoring.detectors.table import IMPLEMENTATIONS
    from serving.monitoring.kinds.table import TABLE
    from streaming.aggregation.functions.table import FUNCTIONS
    from streaming.live.sources.table import SOURCES
    from training.gates.table import GATES

    text = "# Kinds\n\nWhat there is of each kind that can grow. Each member is one class in one file and one line of a table.\n"
    text += "The recipes of [CONTRIBUTING](../../CONTRIBUTING.md) say how to add one.\n"
    text += _section("Aggregation functions", "In a view's `aggregations`.", ((one.shown, one) for one in FUNCTIONS))
    text += _section(
        "Metrics", "In `gates`, `learning.triggers.quality` and `learning.challenge`.", ((n, type(m)) for n, m in METRICS.items())
    )
    text += _section("Triggers", "In `learning.triggers`: they ask for a new training.", ((one.kind, type(one)) for one in TRIGGERS))
    text += _section("Gates", "What a version must pass before it gets a request.", ((one.name, type(one)) for one in GATES))
    text += _section("Kinds of drift", "In the watch's verdicts.", ((one.name, type(one)) for one in TABLE))
    detectors = [(name, import_module(f"serving.monitoring.detectors.{name}").Drift) for name in IMPLEMENTATIONS if name != "alibi"]
    text += _section("Detectors", "In `HEADRACE_DETECTOR`.", detectors)
    text += "* **alibi**: Drift and outlier detection by Alibi Detect. It is under the Business Source Licence 1.1.\n"
    return text + _section("Event sources", "Besides the Redis Stream.", ((one.name, one) for one in SOURCES))


def _section(title: str, where: str, members: Iterable[tuple[str, type]]) -> str:
    return f"\n## {title}\n\n{where}\n\n" + "".join(f"* **{name}**: {_said(kind)}\n" for name, kind in members)


def _said(kind: type) -> str:
    """What the module says in its first paragraph, then the class."""
    module = (sys.modules[kind.__module__].__doc__ or "").strip().split("\n\n")[0]
    own = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0] if "__doc__" in vars(kind) else ""
    return " ".join(f"{module} {own.partition('Args:')[0]}".split())
