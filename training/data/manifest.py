"""What a training set was made of, so that it can be derived again: its identity, and every partition that went into it.

Identity is a hash over the definitions of its features, its spine, the event cut-off (the end of its split), the knowledge cut-off, the
split, and what was left out. Rows that become known after the knowledge cut-off change nothing. Rows that are slipped in below it do, and
are found: the manifest holds, per source table and day, how many rows were known by the cut-off and a hash of them that does not depend on
their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from infra import files
from infra.timestamps import moment_at
from training.data.left_out import Interval

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.spec.model import ModelSpec
    from streaming.schema.feature_view import View


class Partition(msgspec.Struct, frozen=True):
    rows: int
    hash: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Attributes:
        identity: hash of what follows, but the partitions, the content and the data version.
        definitions: hash over the features' definitions.
        spine: table, moment, id and label columns.
        event_cutoff: end of the last split.
        known_upto_us: knowledge cut-off, microseconds since the epoch.
        split: spans by name.
        content: SHA-256 of the Parquet file.
        partitions: by table and day.
        left_out: spans of moments whose examples are not in it, microseconds; not written where there are none.
        data_version: what was read (`headrace versions`), and the version of each table then; not written where tables have none.
    """

    identity: str
    model: str
    definitions: str
    spine: dict[str, Any]
    event_cutoff: str
    known_upto_us: int
    split: dict[str, tuple[str, str]]
    content: str
    partitions: dict[str, dict[str, Partition]]
    left_out: list[Interval] = []
    data_version: int = 0
    tables: dict[str, int] = {}


def identity(definitions: str, spec: ModelSpec, known_upto_us: int, left_out: Sequence[Interval] = ()) -> dict[str, Any]:
    """The parts of a training set's identity, and `identity` itself."""
    spans = {name: span for name in ("train", "valid", "test") if (span := getattr(spec.split, name))}
    parts = {
        "model": spec.name,
        "definitions": definitions,
        "spine": spec.spine.model_dump(),
        "event_cutoff": str(max(span.end for span in spans.values())),
        "known_upto_us": known_upto_us,
        "split": {name: (str(span.start), str(span.end)) for name, span in spans.items()},
    }
    if left_out:  # the identity of a set that leaves nothing out is what it was before this could be said
        parts["left_out"] = [list(span) for span in left_out]
    return parts | {"identity": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}


def partitions(root: Path, views: Sequence[View], spec: ModelSpec, known_upto_us: int) -> dict[str, dict[str, Partition]]:
    """Rows and hash of what was known by the cut-off, of every table and day that the views and the spine read."""
    wanted: dict[str, tuple[set[str], set[str]]] = {}
    for view in views:
        if "://" in view.path or view.path.startswith("/"):
            continue  # not ours to list
        columns, known = wanted.setdefault(view.path, (set(), set()))
        backwards = {name: source for source, name in view.mapping}
        moment = view.created or view.timestamp
        columns |= {backwards.get(c, c) for c in (*view.key_names, *view.source_columns, view.timestamp, moment)}
        known.add(backwards.get(moment, moment))
    columns, known = wanted.setdefault(spec.spine.table, (set(), set()))
    columns |= {spec.spine.timestamp, *spec.spine.id, spec.spine.label, spec.spine.label_timestamp}
    known.add(spec.spine.timestamp)
    return {path: _days(root / path, sorted(columns), sorted(known), known_upto_us) for path, (columns, known) in sorted(wanted.items())}


def _days(folder: Path, columns: list[str], known: list[str], upto_us: int) -> dict[str, Partition]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    from streaming.offline.parquet import dataset

    lying = dataset(str(folder))
    days = ["day"] if "day" in lying.schema.names else []
    table = lying.to_table(columns=[*(c for c in columns if c in lying.schema.names), *days])
    chosen = None
    for name in known:
        moment = table[name].cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
        inside = pc.fill_null(pc.less_equal(moment, upto_us), True)
        chosen = inside if chosen is None else pc.and_(chosen, inside)
    table = table.filter(chosen)
    day = table["day"].cast(pa.string()).to_pandas() if days else pd.Series(["all"] * table.num_rows)
    content = (table.drop_columns(days) if days else table).to_pandas()
    hashes = pd.util.hash_pandas_object(content, index=False)
    grouped = hashes.groupby(day.to_numpy())
    return {
        str(name): Partition(int(count), f"{int(total) % 2**64:016x}")
        for name, count, total in zip(grouped.count().index, grouped.count(), grouped.sum(), strict=True)
    }


def path_of(training_set: Path) -> Path:
    """Where the manifest of a training set's Parquet file lies."""
    return training_set.with_suffix(".json")


def write(manifest: Manifest, training_set: Path) -> None:
    files.replace(path_of(training_set), msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def load(training_set: Path) -> Manifest:
    """
    Raises:
        FileNotFoundError: the training set has no manifest.
        FileError: it cannot be read.
    """
    return files.read_json(path_of(training_set), Manifest)


@dataclass(frozen=True)
class Difference:
    """
    Attributes:
        partitions: `table day: what changed`.
        rows: spine ids of examples that differ, with `(feature, before, after)`; at most the first 100.
        changed, added, gone: how many examples.
    """

    partitions: list[str]
    rows: list[tuple[dict[str, Any], list[tuple[str, Any, Any]]]]
    changed: int
    added: int
    gone: int


def differences(before: Manifest, after: Manifest, old: pa.Table, new: pa.Table, ids: Sequence[str]) -> Difference:
    """Name what changed between two derivations of one training set."""
    named = []
    for table in sorted(before.partitions.keys() | after.partitions.keys()):
        was, now = before.partitions.get(table, {}), after.partitions.get(table, {})
        for day in sorted(was.keys() | now.keys()):
            a, b = was.get(day), now.get(day)
            if a != b:
                rows = f"{a.rows if a else 0:,} -> {b.rows if b else 0:,} rows"
                named.append(f"{table} {day}: {rows if (a and a.rows) != (b and b.rows) else 'the same number of rows, other values'}")
    old_rows, new_rows = _by_id(old, ids), _by_id(new, ids)
    differing: list[tuple[dict[str, Any], list[tuple[str, Any, Any]]]] = []
    for key in old_rows.keys() & new_rows.keys():
        one, other = old_rows[key], new_rows[key]
        cells = [(name, one[name], other[name]) for name in one if name in other and not _same(one[name], other[name])]
        if cells:
            differing.append((dict(zip(ids, key, strict=True)), cells))
    differing.sort(key=lambda r: str(r[0]))
    return Difference(
        named, differing[:100], len(differing), len(new_rows.keys() - old_rows.keys()), len(old_rows.keys() - new_rows.keys())
    )


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))


def _by_id(table: pa.Table, ids: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[c] for c in ids): row for row in table.to_pylist()}


def moment(us: int) -> str:
    return f"{moment_at(us):%Y-%m-%dT%H:%M:%S.%fZ}"
