"""Where worlds are found: every module of `fitted` and of `independent` that has a `World` and a `suite` is one."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import isabstract
from typing import Literal

from tests.bench.drift.worlds.cases import Case
from tests.bench.drift.worlds.world import World

Which = Literal["fitted", "independent"]
HERE = "tests.bench.drift.worlds"


@dataclass(frozen=True)
class Entry:
    world: World
    cases: Callable[[World], list[Case]]


def entries(which: Which) -> list[Entry]:
    """The worlds of a suite, by module name; none where there is no such package yet.

    Raises:
        ValueError: a module has no world, or no `suite`.
    """
    package = import_module(f"{HERE}.{which}")
    found = []
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        holds = import_module(f"{package.__name__}.{module}")
        worlds = [
            one
            for one in vars(holds).values()
            if isinstance(one, type) and issubclass(one, World) and not isabstract(one) and one.__module__ == holds.__name__
        ]
        if len(worlds) != 1 or not callable(getattr(holds, "suite", None)):
            raise ValueError(f"{holds.__name__} must hold one World and a function suite(world); it has {len(worlds)} worlds")
        found.append(Entry(worlds[0](), holds.suite))
    return found
