"""The archive: predictions and their truths, moved from Redis Streams to the offline store, each exactly once.

Tables `predictions_<model>` and `labels_<model>` lie in the offline store as `day=YYYY-MM-DD/HH.parquet` (UTC, by the prediction's own
moment; labels by the moment in their prediction's id).

A step reads entries, adds the rows that an hour's file does not hold yet, replaces that file as a whole, and only then moves the cursor.
So nothing is lost or doubled by a kill between any two lines, by a batch that serving delivered twice, or by a second archiver: what
was not noted is read again, and found to be there.

If Redis trimmed entries before they were read, there is a gap. It is seen because the entry that was read last is no longer there.
Each gap is kept, with the moments between which entries may be missing.

An entry that is no prediction or truth, or that is dated by no moment that there is, is counted and passed over. What is deleted is
counted from a clock, never from the data, and never is most of a table deleted at once.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.records import release
from feature_repo.records.contract import Contract, ContractError
from feature_repo.records.prediction import MODEL, Label, Prediction, id_ms
from feature_repo.records.redis_keys import label_log_key, labels_key, prediction_log_key, predictions_table, truths_table
from feature_repo.records.release import ReleaseError
from infra import files
from streaming import clock
from streaming.clock import SHARE
from streaming.offline import archive_hours
from streaming.offline.archive_rows import PREDICTION, TRUTH, predictions_of, table_of, truths_of
from streaming.schema.types import FIRST_US, LAST_US

if TYPE_CHECKING:
    import redis

    from infra.settings import Settings

PAGE = 5000
_DAY_US = 24 * archive_hours.HOUR_US


class ArchiveError(RuntimeError):
    """The archive cannot go on; the message says why and what to do."""


class Place(msgspec.Struct):
    """How far one stream has been read: the last entry's id, how many entries, and the gaps, each as the entries' ids around it."""

    id: str = "0-0"
    read: int = 0
    gaps: list[tuple[str, str]] = []


class Cursor(msgspec.Struct):
    predictions: Place = msgspec.field(default_factory=Place)
    labels: Place = msgspec.field(default_factory=Place)


@dataclass
class Archived:
    """What one run did: rows that are new in the archive, entries that are no predictions, gaps in the streams (ever); and what was past
    its time but is still there, because it was most of what there is (a sentence each)."""

    predictions: int = 0
    labels: int = 0
    unreadable: int = 0
    gaps: list[tuple[str, str]] = field(default_factory=list)
    dropped_days: int = 0
    spared: list[str] = field(default_factory=list)
    models: dict[str, int] = field(default_factory=dict)


class Archive:
    """
    Args:
        root: the offline store.
        models: the folder of contracts, for the inputs' names.
        home: where the cursor and the lock lie.
    """

    def __init__(self, root: Path, models: Path, home: Path, project: str) -> None:
        self.root, self.models, self.home, self.project = root, models, home, project
        self._contract = lru_cache(maxsize=64)(self._load)

    @property
    def cursor(self) -> Cursor:
        """
        Raises:
            ArchiveError: the file is none.
        """
        path = self.home / f"{self.project}.json"
        try:
            return files.read_json(path, Cursor)
        except FileNotFoundError:
            return Cursor()
        except files.FileError as error:
            raise ArchiveError(f"{error}: remove it; entries are then read again, and none becomes double") from None

    def run(
        self,
        client: redis.Redis,
        *,
        keep_days: int = 0,
        forget_labels_days: int = 30,
        most: float = SHARE,
        now_us: int | None = None,
        tolerance_s: float = clock.TOLERANCE_S,
    ) -> Archived:
        """Take over everything that is in the streams now.

        Args:
            keep_days: partitions of days that lie further back than so many are deleted; 0: none.
            forget_labels_days: archived truths leave Redis so long after their prediction.
            most: the largest share of a table's days, or of a model's truths in Redis, that is deleted at once; 1: all.
            now_us: the clock that counts, microseconds since the epoch; None: the project's (`streaming.clock.now_us`).
            tolerance_s: a truth whose prediction lies further ahead of the wall clock than this is none.

        Raises:
            ArchiveError: another archiver is at work here.
            redis.RedisError: Redis does not answer; nothing of what was archived is undone.
        """
        done = Archived()
        now_us = clock.now_us(client, self.project) if now_us is None else now_us
        latest_us = max(clock.wall_us(), now_us) + round(tolerance_s * 1e6)
        with self._alone():
            cursor = self.cursor
            for page in self._pages(client, prediction_log_key(self.project), cursor.predictions):
                self._predictions(page, done)
                self._note(cursor)
            for page in self._pages(client, label_log_key(self.project), cursor.labels):
                self._labels(page, done, latest_us)
                self._note(cursor)
            if cursor.labels.read:  # what is archived need not wait in Redis; the last entry stays, to see gaps by
                client.xtrim(label_log_key(self.project), minid=cursor.labels.id, approximate=True)
            self._forget(client, now_us - forget_labels_days * _DAY_US, most, done)
            if keep_days:
                self._retain(now_us // _DAY_US - keep_days, most, done)
            done.gaps = [*cursor.predictions.gaps, *cursor.labels.gaps]
        return done

    # streams

    def _pages(self, client: Any, key: str, place: Place) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
        try:
            info = client.xinfo_stream(key)
        except Exception as error:
            if "no such key" in str(error):
                return
            raise
        if _pair(info["last-generated-id"]) < _pair(place.id):
            place.id = "0-0"  # another Redis, or one that lost its end: what is there is read again
        first = info["first-entry"]
        if place.read and first and _pair(first[0]) > _pair(place.id) > (0, 0):
            place.gaps.append((place.id, first[0].decode()))
        while page := client.xrange(key, f"({place.id}", "+", count=PAGE):
            place.id, place.read = page[-1][0].decode(), place.read + len(page)
            yield page

    def _predictions(self, page: Sequence[tuple[bytes, dict[bytes, bytes]]], done: Archived) -> None:
        by_file: dict[tuple[str, int], list[Prediction]] = defaultdict(list)
        for _, fields in page:
            try:
                one = files.parse(fields.get(b"p", b""), Prediction)
                if not MODEL.fullmatch(one.model) or not FIRST_US <= one.at_us <= LAST_US:
                    raise ValueError("neither a model's name nor a moment")
            except ValueError:
                done.unreadable += 1
                continue
            by_file[one.model, one.at_us // archive_hours.HOUR_US].append(one)
        for (model, hour), found in by_file.items():
            table = self._table(model, found, done)
            if table is None:
                continue
            new = archive_hours.add(archive_hours.path_of(self.root / predictions_table(model), hour), table)
            done.predictions += new
            done.models[model] = done.models.get(model, 0) + new

    def _table(self, model: str, found: Sequence[Prediction], done: Archived) -> pa.Table | None:
        """Predictions as rows; one whose values fit no column is counted as unreadable, and the others go on. None where none is left."""
        try:
            return table_of(model, found, self._contract)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            if len(found) == 1:
                done.unreadable += 1
                return None
        halves = [self._table(model, part, done) for part in (found[: len(found) // 2], found[len(found) // 2 :])]
        tables = [half for half in halves if half is not None]
        return pa.concat_tables(tables, promote_options="permissive") if tables else None

    def _labels(self, page: Sequence[tuple[bytes, dict[bytes, bytes]]], done: Archived, latest_us: int) -> None:
        by_file: dict[tuple[str, int], list[Label]] = defaultdict(list)
        for _, fields in page:
            try:
                one = files.parse(fields.get(b"l", b""), Label)
                made_us = id_ms(one.prediction_id) * 1000
                if not MODEL.fullmatch(one.model) or made_us > latest_us or not FIRST_US <= one.at_us <= LAST_US or one.label not in (0, 1):
                    raise ValueError("no truth of a prediction that there can be")
                hour = made_us // archive_hours.HOUR_US
            except ValueError:
                done.unreadable += 1
                continue
            by_file[one.model, hour].append(one)
        for (model, hour), found in by_file.items():
            done.labels += archive_hours.add(archive_hours.path_of(self.root / truths_table(model), hour), truths_of(found))

    def _load(self, model: str, version: int) -> Contract | None:
        released = None
        with contextlib.suppress(ReleaseError):  # a release that is broken does not make the names of inputs unknown
            released = release.read(self.models, model)
        try:
            return release.load(self.models, model, version, released)
        except ContractError:
            return None

    # the state of its own

    def _note(self, cursor: Cursor) -> None:
        files.replace(self.home / f"{self.project}.json", msgspec.json.encode(cursor))

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        refusal = ArchiveError("another archiver is at work in this checkout (the autopilot archives by itself)")
        return files.alone(self.home / f"{self.project}.lock", refusal=refusal)

    def _forget(self, client: Any, before_us: int, most: float, done: Archived) -> None:
        """Let archived truths go from Redis' hash, long after anyone would ask for them by id."""
        for folder in self.root.glob(f"{truths_table('')}*"):
            model = folder.name.removeprefix(truths_table(""))
            key = labels_key(self.project, model)
            total = client.hlen(key)
            if total < PAGE:
                continue
            old = [number for number, _ in client.hscan_iter(key, count=1000) if _made_before(number, before_us)]
            if len(old) > most * total:
                done.spared.append(f"{len(old):,} of {total:,} truths of {model} in Redis are past their time")
                continue
            for i in range(0, len(old), PAGE):
                client.hdel(key, *old[i : i + PAGE])

    def _retain(self, first_day: int, most: float, done: Archived) -> None:
        """Delete the partitions of days before a day (counted since the epoch)."""
        import shutil

        first = f"day={np.datetime64(first_day, 'D')}"
        for folder in [*self.root.glob(f"{predictions_table('')}*"), *self.root.glob(f"{truths_table('')}*")]:
            parts = sorted(folder.glob("day=????-??-??"))
            old = [part for part in parts if part.name < first]
            if len(old) > most * len(parts):
                done.spared.append(f"{len(old):,} of {len(parts):,} days of {folder.name} are past their time")
                continue
            for part in old:
                shutil.rmtree(part)
                done.dropped_days += 1

    # reading

    def predictions(
        self, model: str, from_us: int | None = None, upto_us: int | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Archived predictions with their own moment in `[from_us, upto_us)`, by moment and id; empty where there are none.

        Args:
            columns: those wanted, as far as there are such; None: all.
        """
        return self._read(predictions_table(model), PREDICTION, "event_timestamp", from_us, upto_us, columns)

    def newest_us(self, model: str) -> int | None:
        """The newest archived prediction's own moment; None where there is none."""
        for path in reversed(archive_hours.paths(self.root / predictions_table(model))):
            rows = archive_hours.read(path, PREDICTION, ["event_timestamp"])
            newest = None if rows is None else pc.max(rows["event_timestamp"].cast(pa.int64())).as_py()
            if newest is not None:
                return int(newest)
        return None

    def labels(self, model: str) -> pa.Table:
        """Archived truths; a prediction may have several, each known at a moment of its own (`known_at`), of which the latest holds."""
        return self._read(truths_table(model), TRUTH, "known_at", None, None)

    def _read(
        self,
        name: str,
        schema: pa.Schema,
        column: str,
        from_us: int | None,
        upto_us: int | None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        table = archive_hours.table(archive_hours.paths(self.root / name, from_us, upto_us), schema, columns)
        moments = table[column].cast(pa.int64())
        sound = pc.fill_null(pc.and_(pc.greater_equal(moments, FIRST_US), pc.less_equal(moments, LAST_US)), False)
        if not pc.all(sound).as_py():  # an hour of before there were checksums
            table, moments = table.filter(sound), moments.filter(sound)
        if from_us is not None:
            table, moments = (c.filter(pc.greater_equal(moments, from_us)) for c in (table, moments))
        if upto_us is not None:
            table = table.filter(pc.less(moments, upto_us))
        return table.sort_by([(column, "ascending"), ("prediction_id", "ascending")])

    def restore(self, model: str, table: pa.Table) -> list[Prediction]:
        """Archived rows as the predictions they were."""
        return predictions_of(model, table, self._contract)


def of(settings: Settings, project: str) -> Archive:
    """The archive of this checkout."""
    return Archive(settings.offline_root, settings.model_root, settings.state / "archive", project)


def _made_before(number: bytes, us: int) -> bool:
    try:
        return id_ms(number.decode()) * 1000 < us
    except ValueError:
        return False  # not ours


def _pair(number: bytes | str) -> tuple[int, int]:
    ms, _, seq = (number.decode() if isinstance(number, bytes) else number).partition("-")
    return int(ms), int(seq or 0)
