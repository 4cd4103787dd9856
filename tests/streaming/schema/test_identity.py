"""A view's stored state is known by what is computed: not by the order, the names or the hash seed; and what older code stored is still read."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.features.decoder import Answer, make_part, windowed
from serving.features.window_cache import WindowCache
from streaming.aggregation import tiles
from streaming.aggregation.windows import DAY, HOUR, SECOND, Aggregation, Layout
from streaming.schema.feature_view import Feature, Projection, View
from tests.bikes.edits import rewrite
from tests.streaming.join.test_point_in_time import AGGREGATIONS

OLD = [
    Aggregation("total", "x", "sum", 2 * HOUR),
    Aggregation("spread", "x", "std", DAY),
    Aggregation("kinds", "x", "count_distinct", 2 * HOUR),
    Aggregation("newest", "x", "last", 2 * HOUR),
]
"""In the order of a registry."""
STORED = zlib.decompress(
    base64.b85decode(
        "c%1VvVq&<m_pd2K+x-<r>sc8X85kH?86bcSh(Uaq96HSmlB?Olc4Uv3GlPQ9T`(<hzW5Y~27?dw*y$fon&|+97I0v|2`0#a&0V7W6--OiErytnOB}oT%uv6;@"
        "HU>D|7quvv(>Nt*#7o_A&<54iix$1b3<{tn+Zf65MOu*WXFRop(o*XF*u;AeX$>}pB!YN;szM<0NA%p^8"
    )
)
"""Their tiles as the code of commit 1e070f9 wrote them, which knew state by names and the registry's order."""
NEWEST = 1_600_007_000 * SECOND


def view_of(aggregations: list[Aggregation], order: list[tuple[str, str]] | None = None) -> View:
    features = tuple(sorted((Feature(a.name, "double") for a in aggregations), key=lambda f: f.name))
    stored = tuple(order if order is not None else [(a.name, a.name) for a in aggregations])
    keys = (Feature("k", "int64"),)
    return View("p", "v", keys, "v", "at", None, (), 0, features, Layout.canonical(aggregations), None, stored)


def served(view: View, blob: bytes, now_us: int) -> dict[str, float]:
    names = tuple(f.name for f in view.features)
    part, answer = make_part(Projection(view, view.name, names, ()), 0, 0, 0, 0), Answer()
    assert part.finisher is not None
    windowed(part, part.finisher, blob, now_us, answer, WindowCache(0), b"")
    return dict(zip(names, answer.values, strict=True))


WAS = {"total": 3.25, "spread": 3.1457643480294792, "kinds": 3.0, "newest": 4.0}


def test_tiles_of_the_code_before_are_served_and_merged() -> None:
    view = view_of(OLD)
    assert tiles.read_header(STORED).fingerprint not in (view.fingerprint, 0)
    assert served(view, STORED, NEWEST + SECOND) == WAS
    assert view.layout is not None
    header, parts = tiles.decode(STORED, tiles.levels_of(view.layout), view.fingerprint, view.former)
    again = tiles.encode(replace(header, fingerprint=view.fingerprint), parts)
    assert served(view, again, NEWEST + SECOND) == WAS


def test_tiles_of_another_definition_are_not() -> None:
    for changed in (OLD[1:], [replace(OLD[0], window_us=3 * HOUR), *OLD[1:]], [replace(OLD[0], function="mean"), *OLD[1:]]):
        with pytest.raises(tiles.TileError, match="another definition"):
            served(view_of(changed), STORED, NEWEST)
    with pytest.raises(tiles.TileError, match="another definition"):
        served(view_of(OLD, []), STORED, NEWEST)  # its tag says that nothing older lies there


def test_renamed_features_keep_the_tiles_of_the_code_before() -> None:
    names = {"total": "a_total", "spread": "z_spread", "kinds": "kinds", "newest": "b"}
    view = view_of([replace(a, name=names[a.name]) for a in reversed(OLD)], [(a.name, names[a.name]) for a in OLD])
    assert served(view, STORED, NEWEST + SECOND) == {names[name]: value for name, value in WAS.items()}


@given(st.permutations(AGGREGATIONS), st.permutations([f"f{i}" for i in range(len(AGGREGATIONS))]), st.integers(0, 2**32))
@settings(max_examples=60)
def test_order_and_names_change_neither_fingerprint_nor_tiles(order: list[Aggregation], names: list[str], seed: int) -> None:
    before = Layout.canonical(AGGREGATIONS)
    renamed = [replace(a, name=name) for a, name in zip(order, names, strict=True)]
    after = Layout.canonical(renamed)
    assert tiles.fingerprint(after) == tiles.fingerprint(before)
    assert list(after.slots.items()) == list(before.slots.items())
    assert after.sketches == before.sketches
    # and tiles that lie in the order given are the same numbers
    random = np.random.default_rng(seed)
    event = np.sort(random.integers(0, 3 * DAY, 20)) + 1_600_000_000 * SECOND
    columns: dict[str, Any] = {}
    for name in before.columns:
        hashed = name.startswith("#")
        columns[name] = random.integers(0, 9, 20) if hashed else np.where(random.random(20) < 0.2, np.nan, random.normal(0, 9, 20))
    fingerprint = zlib.crc32(repr(tuple(order)).encode())  # as it was
    old = tiles.encode(
        tiles.Header(fingerprint, int(event[-1]), 1, (0, 0), 1, int(event[-1]), int(event[-1])), built(Layout.of(order), event, columns)
    )
    new = tiles.encode(
        tiles.Header(tiles.fingerprint(before), int(event[-1]), 1, (0, 0), 1, int(event[-1]), int(event[-1])), built(before, event, columns)
    )
    view = view_of(order)
    assert fingerprint in view.former
    assert str(served(view, old, int(event[-1]) + HOUR)) == str(served(view, new, int(event[-1]) + HOUR))  # NaN is NaN
    header, parts = tiles.decode(old, tiles.levels_of(before), view.fingerprint, view.former)
    assert tiles.encode(replace(header, fingerprint=view.fingerprint), parts) == new


def built(layout: Layout, event: Any, columns: dict[str, Any]) -> list[tiles.Part]:
    parts: list[tiles.Part] = []
    for level in tiles.levels_of(layout):
        parts += tiles.build(level, np.zeros(len(event), np.int64), event, event, columns).slices(1)
    return parts


SEEDED = """
import json, sys
from pathlib import Path
from feature_repo.registry.apply import apply_definitions
from feature_repo.registry.definitions import definitions_of
from feature_repo.registry.plan import make_plan, proposed
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from streaming.schema.feature_view import views

own = Settings(state=Path(sys.argv[1]), redis_url="redis://127.0.0.1:1/0")
own.export()
case = UseCase(Path(sys.argv[2]))
changes = None
if sys.argv[3] == "again":
    with proposed(case) as after:
        changes = [c.text for c in make_plan(case, after, own).changes]
apply_definitions(case)
compiled = views(case.store).values()
print("told", json.dumps({
    "changes": changes,
    "registry": [[f.name for f in v.features] for v in case.store.list_stream_feature_views()],
    "columns": {v.name: [[f.name for f in v.features], v.columns] for v in compiled},
    "fingerprints": {v.name: v.fingerprint for v in compiled},
    "definitions": sorted(definitions_of(case.store, "dock_choice").items()),
    "held": {v.name: sorted(v.former) for v in compiled},
}))
"""


def seeded(seed: int, state: Path, repo: Path, turn: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", SEEDED, str(state), str(repo), turn],
        env=os.environ | {"PYTHONHASHSEED": str(seed), "HEADRACE_STATE": str(state), "HEADRACE_REGISTRY_URL": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = [line for line in run.stdout.splitlines() if line.startswith("told ")]
    assert told, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(told[0][5:])
    return found


@pytest.mark.integration
def test_an_unchanged_repository_applied_under_another_hash_seed_changes_nothing(tmp_path: Path) -> None:
    repo = Path(__file__).parents[2] / "bikes" / "repo"
    first, second = seeded(1, tmp_path, repo, "first"), seeded(2, tmp_path, repo, "again")
    assert first["registry"] != second["registry"], "Feast's order did not differ: nothing was tested"
    assert second["changes"] == []
    for what in ("columns", "fingerprints", "definitions", "held"):
        assert first[what] == second[what], what


def test_the_registrys_order_before_is_kept_through_every_later_apply(tmp_path: Path) -> None:
    """What was stored by the order of a registry without tags is read after applies under other seeds, and after a rename."""
    from feature_repo.registry import stored_order
    from feature_repo.registry.apply import apply_definitions
    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings
    from streaming.schema.feature_view import views

    environment = dict(os.environ)
    try:
        Settings(state=tmp_path, redis_url="redis://127.0.0.1:1/0").export()
        folder = tmp_path / "repo"
        shutil.copytree(Path(__file__).parents[2] / "bikes" / "repo", folder)
        case = UseCase(folder)
        apply_definitions(case)
        registry: Any = case.store.registry
        for applied in case.store.list_stream_feature_views():  # as older code left it
            applied.tags = {}
            applied.features = sorted(applied.features, key=lambda f: f.name[::-1])
            registry.apply_feature_view(applied, case.project)
        registry.refresh()
        before = {name: view.former for name, view in views(case.store).items()}
        assert before["rides_by_station"]
        text = (folder / "bikes.py").read_text()
        for edit in (("unchanged", "unchanged"), ("mean_km_1d", "a_day_of_km"), ("a_day_of_km", "zz"), ("min_km_2h", "mean_km_1d")):
            text = text.replace(*edit)
            rewrite(folder / "bikes.py", text)
            apply_definitions(UseCase(folder))
            registry.refresh()
            now = views(case.store)["rides_by_station"]
            assert now.former.keys() == before["rides_by_station"].keys(), edit
            (then,), (again,) = before["rides_by_station"].values(), now.former.values()
            assert [a.meaning for a in then.aggregations] == [a.meaning for a in again.aggregations]
        rewrite(folder / "bikes.py", text.replace('hours=2), name="sum_km_2h"', 'hours=3), name="sum_km_2h"'))
        apply_definitions(UseCase(folder))
        registry.refresh()
        assert not views(case.store)["rides_by_station"].former, "it means something else now"
        assert stored_order.of(case.store.get_stream_feature_view("rides_by_station")) == []
    finally:
        os.environ.clear()
        os.environ.update(environment)


def test_what_lies_in_the_way_of_a_tag_is_passed_over() -> None:
    from types import SimpleNamespace

    from feature_repo.registry import stored_order

    for text in ("{", "[1]", "[[1]]", "null", "0", "[[1, 2, 3]]"):
        assert stored_order.of(SimpleNamespace(tags={stored_order.TAG: text})) == []
