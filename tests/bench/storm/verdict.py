"""The judgement of a storm: what was lost, doubled or wrong, what was answered, how long each recovery took, what memory grew."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from feature_repo.records.redis_keys import events_key
from streaming.live import dead_letters
from streaming.offline.archive import ArchiveError, of
from streaming.online.store import connect
from streaming.skew.proof import prove, read_log
from tests.bench.storm import truth
from tests.bench.storm.storm import Course
from tests.bench.storm.traffic.hostile_events import STRANGERS
from tests.bench.storm.traffic.producer import PUSHED, STATIONS
from tests.bench.storm.world import MODEL, PROJECT

GROWTH_MB, GROWTH_SHARE = 96.0, 0.25
"""Memory of a process is flat where its last quarter is above its second by no more than the larger of these."""
_YOUNG_S, _LONG_S = 120.0, 60.0
"""A process loads what it needs in its first two minutes; after these it has to be seen for a minute at least."""


@dataclass(frozen=True)
class Row:
    """One line of the verdict; `bar` None: told, not judged."""

    name: str
    value: float | None
    bar: float | None
    note: str = ""

    @property
    def held(self) -> bool:
        return self.bar is None or (self.value is not None and self.value <= self.bar)


@dataclass
class Verdict:
    rows: list[Row] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    memory: list[dict[str, Any]] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether no bar is broken."""
        return all(row.held for row in self.rows)

    @property
    def broken(self) -> list[str]:
        return [f"{r.name}: {'never' if r.value is None else f'{r.value:g}'}, at most {r.bar:g}. {r.note}" for r in self.rows if not r.held]

    def add(self, name: str, value: float | None, bar: float | None = 0, note: str = "") -> None:
        self.rows.append(Row(name, value, bar, note))

    def as_json(self) -> dict[str, Any]:
        rows = [{"name": r.name, "value": r.value, "bar": r.bar, "held": r.held, "note": r.note} for r in self.rows]
        kept = {"faults": self.faults, "answers": self.answers, "memory": self.memory, "examples": self.examples}
        return {"held": self.held, "rows": rows, **kept}

    def show(self, console: Console) -> None:
        table = Table("measured", "value", "bar", "", box=None)
        for row in self.rows:
            value = "never" if row.value is None else f"{row.value:,.4g}"
            colour = "" if row.bar is None else "[green]" if row.held else "[red]"
            table.add_row(row.name, f"{colour}{value}", "" if row.bar is None else f"{row.bar:g}", row.note)
        console.print(table)
        table = Table("at", "what", "recovered in", "serving", "stream", "process", "answers meanwhile", box=None)
        for one in self.faults:
            times = ["never" if one[k] is None else f"{one[k]:.1f} s" for k in ("recovery_s", "serving_s", "stream_s", "process_s")]
            answers = one["why"] or ", ".join(f"{n:,} {what}" for what, n in one["answers"].items())
            table.add_row(one["at"], one["what"], *times, answers)
        console.print(table)
        for example in self.examples[:20]:
            console.print(example, markup=False, soft_wrap=True)


def judge(course: Course, told: Callable[[str], None]) -> Verdict:
    """Take everything to account. The platform has to be up still; nothing is sent to it any more."""
    verdict = Verdict(examples=list(course.ledger.examples), answers=course.ledger.tally())
    told("events against the stream")
    accepted = _events(course, verdict)
    truth.keep_offline(course.world, accepted)
    told("predictions and truths against the archive")
    log = predictions_of(course, verdict)
    told("the skew proof")
    found = prove(_no_spark, course.world.case, course.world.own, course.world.contract, log) if log else None
    told("the store against the oracle")
    stations = sorted({*STATIONS, *PUSHED, *STRANGERS})
    compared, wrong, examples = truth.wrong_cells(course.world, stations, ("member", "casual", "🚲" * 40), time.time_ns() // 1000)
    skew = found.wrong if found else 0
    note = f"skew proof: {skew:,} of {found.cells if found else 0:,}; store against the oracle: {wrong:,} of {compared:,}"
    verdict.add("cells wrong", skew + wrong, note=note)
    verdict.examples += examples + [f"skew: {e}" for e in (found.examples if found else [])]
    _answers(course, verdict)
    _recoveries(course, verdict)
    _memory(course, verdict)
    verdict.rows.sort(key=lambda row: row.bar is None)
    return verdict


def _no_spark() -> Any:
    raise RuntimeError("the storm's tables are small: the proof takes no Spark")


def _events(course: Course, verdict: Verdict) -> dict[str, list[dict[str, Any]]]:
    """Compare what was sent with what is on the stream and among the rejected; the rows that were accepted, by table."""
    client, sent = connect(course.world.own.redis()), course.ledger.events
    there: Counter[bytes] = Counter()
    pushed: Counter[int] = Counter()
    after: Any = "-"
    while entries := client.xrange(events_key(PROJECT), after, "+", count=5000):
        for _, fields in entries:  # type: ignore[union-attr]
            if fields[b"data"] in sent:
                there[fields[b"data"]] += 1
            elif (number := _ride(fields[b"data"])) in course.load.pushed:
                pushed[number] += 1
        after = b"(" + entries[-1][0]  # type: ignore[index]
    refused = {one.data for one in dead_letters.read(client, PROJECT)}
    sure = [number for number, (_, taken) in course.load.pushed.items() if taken]
    lost = [one for data, one in sent.items() if not there[data]]
    verdict.add("events lost", len(lost) + sum(not pushed[n] for n in sure), note=f"of {len(sent):,}, and {len(sure):,} pushed over HTTP")
    verdict.add("events doubled", sum(n > 1 for n in (*there.values(), *pushed.values())))
    through = Counter(one.kind for data, one in sent.items() if one.expect == "rejected" and data not in refused)
    wrongly = Counter(one.kind or "honest" for data, one in sent.items() if one.expect == "applied" and data in refused)
    verdict.add("hostile events that were let in", through.total(), note=_kinds(through))
    verdict.add("events rejected that should not be", wrongly.total(), note=_kinds(wrongly))
    hostile = sum(bool(one.kind) for one in sent.values())
    verdict.add("hostile events", hostile, None, f"{sum(d in refused for d in sent):,} rejected")
    rows: dict[str, list[dict[str, Any]]] = {"rides": [], "docks": []}
    for data, one in sent.items():
        if one.row is not None and there[data] and data not in refused:
            rows[one.source].append(one.row)
    rows["rides"] += [row for number, (row, _) in course.load.pushed.items() if pushed[number]]
    return rows


def _ride(data: bytes) -> int:
    try:
        found = msgspec.json.decode(data)
        return int(found["ride"]) if isinstance(found, dict) and isinstance(found.get("ride"), int) else -1
    except (msgspec.DecodeError, ValueError, RecursionError, UnicodeDecodeError):
        return -1


def _kinds(found: Counter[str]) -> str:
    return ", ".join(f"{kind} ({n})" for kind, n in found.most_common(12))


def predictions_of(course: Course, verdict: Verdict, timeout_s: float = 60.0) -> list[Any]:
    """Compare what was answered with what the archive holds; the log, for the proof."""
    ledger, own = course.ledger, course.world.own
    client, archive = connect(own.redis()), of(own, PROJECT)
    deadline = time.monotonic() + timeout_s
    kept: Counter[str] = Counter()
    failed = ""
    while not failed:
        try:
            archive.run(client)
            kept = Counter(archive.predictions(MODEL)["prediction_id"].to_pylist())
            if ledger.answered.keys() <= kept.keys() or time.monotonic() > deadline:
                break
        except ArchiveError as error:  # the autopilot is at it
            if time.monotonic() > deadline:
                failed = str(error)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        time.sleep(0.5)
    verdict.add("archive runs that failed", int(bool(failed)), note=failed)
    lost = [number for number in ledger.answered if not kept[number]]
    verdict.add("predictions lost", len(lost), note=f"of {len(ledger.answered):,} answered" + _when(course, lost))
    doubled = sum(n > 1 for n in kept.values()) + ledger.twice
    verdict.add("predictions doubled", doubled)
    strangers = sum(number not in ledger.answered for number in kept)
    note = f"{strangers:,} are in the archive without an answer that arrived; {ledger.unknown:,} were asked and heard nothing of"
    verdict.add("predictions nobody asked for", max(0, strangers - ledger.unknown), note=note)
    labels = archive.labels(MODEL)
    truths = Counter(labels["prediction_id"].to_pylist())
    said = dict(zip(labels["prediction_id"].to_pylist(), labels["label"].to_pylist(), strict=True))
    missing = [number for number, label in ledger.truths.items() if said.get(number) != label]
    verdict.add("feedback lost", len(missing), note=f"of {len(ledger.truths):,} accepted")
    verdict.add("feedback doubled", sum(truths[number] > 1 for number in ledger.truths))
    return read_log(client, PROJECT, MODEL, archive=archive)


def _when(course: Course, lost: list[str]) -> str:
    """After which faults predictions were lost."""
    hit = Counter(s.fault.name if (s := course.faults_at(course.ledger.answered[n])) else "before any fault" for n in lost)
    return f": {_kinds(hit)}" if hit else ""


def _answers(course: Course, verdict: Verdict) -> None:
    ledger, bad = course.ledger, course.unexpected()
    note = f"of {len(ledger.outcomes):,}: {_kinds(Counter(f'{o.what} {o.status}' for o in bad))}"
    verdict.add("answers unexpected", len(bad), note=note)
    unreached = sum(o.verdict == "unreached" for o in ledger.outcomes)
    verdict.add("connections refused or reset", unreached, None, "while what listens was down, or it refused what was hostile")
    verdict.add("answers 503 or 504, prompt", sum(o.verdict == "busy" for o in ledger.outcomes), None)
    took = sorted(o.took_s for o in ledger.outcomes if o.what == "predict" and o.verdict == "ok")
    if took:
        verdict.add("prediction answered, p50, ms", 1e3 * median(took), None)
        verdict.add("prediction answered, p99, ms", 1e3 * took[int(0.99 * len(took))], None)
        verdict.add("prediction answered, longest, ms", 1e3 * took[-1], None)


def _recoveries(course: Course, verdict: Verdict) -> None:
    over = []
    for one in course.struck:
        bound = one.fault.bound_s * course.plan.slack
        if not one.why and (one.recovery_s is None or one.recovery_s > bound):
            over.append(one)
        verdict.faults.append(
            {
                "at": time.strftime("%H:%M:%S", time.gmtime(one.at)),
                "what": one.fault.name,
                "seconds": one.over - one.at,
                "recovery_s": one.recovery_s,
                "serving_s": one.serving_s,
                "stream_s": one.stream_s,
                "process_s": one.part_s,
                "bound_s": bound,
                "answers": one.answers,
                "why": one.why,
            }
        )
    done = [s for s in course.struck if not s.why]
    times = [s.recovery_s for s in done]
    longest = None if None in times else max((t for t in times if t is not None), default=0.0)
    worst = max(done, key=lambda s: float("inf") if s.recovery_s is None else s.recovery_s, default=None)
    verdict.add("longest recovery", longest, None, f"seconds, of {len(done)} faults: {worst.fault.name}" if worst else "no fault was done")
    verdict.add("recoveries beyond their bound", len(over), note=_kinds(Counter(s.fault.name for s in over)))
    left_out = [f"{s.fault.name} ({s.why})" for s in course.struck if s.why] + [f"{name} (no time)" for name in course.never]
    verdict.add("faults not done", len(left_out), None, "; ".join(left_out))


def _memory(course: Course, verdict: Verdict) -> None:
    """Growth of every process that lived long enough, from its second quarter to its last."""
    lives: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for at, found in course.monitor.memory:
        for key, mb in found.items():
            lives.setdefault(key, []).append((at, mb))
    grown = []
    for (part, pid), life in sorted(lives.items()):
        life = [(at, mb) for at, mb in life if at - life[0][0] >= _YOUNG_S]
        span, quarter = life[-1][0] - life[0][0] if life else 0.0, len(life) // 4
        if span < _LONG_S or quarter < 2:
            continue
        early, late = median(mb for _, mb in life[quarter : 2 * quarter]), median(mb for _, mb in life[-quarter:])
        slope = (late - early) / (span * 0.625 / 60)  # from the middle of the second quarter to that of the last
        one = {"part": part, "pid": pid, "minutes": span / 60, "from_mb": early, "to_mb": late, "mb_per_minute": slope}
        verdict.memory.append(one)
        if late - early > max(GROWTH_MB, GROWTH_SHARE * early):
            grown.append(f"{part} {early:.0f} to {late:.0f} MB in {span / 60:.1f} min")
    steepest = max(verdict.memory, key=lambda m: m["mb_per_minute"], default=None)
    note = "; ".join(grown) or (
        f"steepest: {steepest['part']}, {steepest['mb_per_minute']:.1f} MB a minute" if steepest else "none lived long"
    )
    verdict.add("processes whose memory grew", len(grown), note=note)
