"""The demo: the whole platform once, stage by stage, timed, and told to a person at the end.

Every stage is what its own command does. Training is handed in by the front door, since serving does not import it.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.records import release
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT, Settings
from infra.supervision import process, redis_server, services
from infra.timestamps import day_text, microseconds
from serving.simulation.replay import Replayed
from serving.simulation.stages import Course, StageFailed

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ["feast", "ray", "pyspark", "lightgbm", "onnxruntime", "redis", "alibi-detect", "mlflow"]


class Demo:
    """One run.

    Args:
        model: the model to take through it.
        days: days to replay, from the first day of the model's test split (or its validation split).
        step_minutes: see `serving.simulation.replay`.
        training: `build`, `register`, `skew`, `evaluate` of the training package.
    """

    def __init__(
        self, settings: Settings, case: UseCase, model: str, days: int, step_minutes: float, console: Console, training: dict[str, Any]
    ) -> None:
        self.settings, self.case, self.spec = settings, case, case.model(model)
        self.days, self.step_minutes = days, step_minutes
        self.console, self.training = console, training
        self.course = Course(console)
        self.problems: list[str] = []
        start = (self.spec.split.test or self.spec.split.valid).bounds()[0]
        self.first_us = microseconds(start)
        self.last_us = self.first_us + days * 86_400_000_000
        self.rows: dict[str, int] = {}
        self.made: Any = None
        self.contract: Any = None
        self.replayed = Replayed()
        self.skew: Any = None
        self.keep = False
        self.watched: list[Any] = []

    def run(self, keep: bool, report: Path | None) -> bool:
        """Run every stage; returns whether all of them did their job. Stops what it started unless `keep`."""
        self.keep = keep
        self.console.print(
            f"[bold]Headrace demo[/bold]: {self.case.project}, model {self.spec.name}, {self.days} day{'s' * (self.days != 1)} of replay"
        )
        if known := release.champion_if_any(self.settings.model_root, self.spec.name):
            self.console.print(
                f"{self.settings.state} holds an earlier run (version {known} of the model): tables and online store are made anew, "
                "its versions, logs and archive are kept"
            )
        try:
            self._stages()
        except StageFailed:
            pass
        except KeyboardInterrupt:
            self.problems.append("interrupted")
            raise
        finally:
            if keep:
                self.console.print("services are left running (`./headrace status`, `./headrace down`)")
                if self.spec.learning.triggers.any:
                    self.console.print(
                        f"no autopilot is among them: nobody trains, and nobody hears a word on an alarm. `./headrace up` starts one, "
                        f"or `./headrace autopilot {self.spec.name}` in the foreground"
                    )
            else:
                with self.console.status("shutting down"):
                    services.stop_all(self.settings)
        data = self._report()
        from serving.simulation.demo_report import summary_table, write_report

        page = self.settings.state / "report.html"
        write_report(data, page)
        self.console.print(summary_table(data))
        self.console.print(f"report: {page}")
        if report is not None:
            self._write_json(report)
            self.console.print(f"JSON: {report}")
        for failure in data.failures:
            self.console.print(f"[red]{failure}[/red]")
        return not data.failures

    def _stages(self) -> None:
        from feature_repo.registry.apply import apply_definitions
        from feature_repo.registry.plan import proposed
        from streaming.backfill.run import backfill
        from streaming.offline.ingest import make_tables
        from streaming.offline.spark import session
        from streaming.schema.compilation import check_view
        from streaming.schema.feature_view import views

        with self.course.stage("set-up") as said:
            before = [str(row["name"]) for row in services.status(self.settings) if row["running"] and row["name"] != redis_server.NAME]
            if before:
                services.stop_all(self.settings)  # an earlier run's stream would apply what this one backfills
            redis_server.up(self.settings)
            spark = session(self.settings)
            said("Redis and Spark are up" + (f"; stopped what ran before: {', '.join(before)}" if before else ""))
        with self.course.stage("ingest") as said:
            loaded = make_tables(self.case, self.settings, spark)
            self.rows = {one.table: one.rows for one in loaded}
            said(f"{sum(self.rows.values()):,} rows in {len(loaded)} tables")
        with self.course.stage("apply") as said:
            with proposed(self.case) as after:
                check_view(after.store, {m.name: m.feature_service for m in self.case.models.values()})
            applied = apply_definitions(self.case)
            said(f"{len(applied.views)} views, {len(applied.entities)} entities")
        with self.course.stage("backfill") as said:
            compiled = list(views(self.case.store).values())
            done = backfill(spark, compiled, self.settings.offline_root, self.settings.redis(), self.first_us, rewind=True)
            failed = [f"{d.view}: {d.error}" for d in done if d.error]
            if failed:
                raise StageFailed("; ".join(failed))
            said(f"{len(done)} views, {sum(d.entities for d in done):,} entities, to {day_text(self.first_us)}")
        with self.course.stage("training set") as said:
            self.made = self.training["build"](spark, self.case, self.settings, self.spec)
            said(f"{self.made.rows:,} examples x {len(self.made.inputs)} inputs, hash {self.made.hash[:12]}")
            spark.stop()
        with self.course.stage("train") as said:
            self.contract = self.training["register"](self.spec, self.made, self.settings)
            release.promote(self.settings.model_root, self.spec.name, self.contract.version)
            auc = ", ".join(f"{name} {m['auc']:.4f}" for name, m in self.contract.metrics.items())
            said(f"version {self.contract.version}: AUC {auc}; ONNX within {self.contract.parity.max_abs_difference:.0e}")
        with self.course.stage("serve") as said:
            for service in (services.serve(), services.stream(), services.watch(self.spec.name)):
                services.start(self.settings, service)
            said("Ray Serve, stream and watch are ready")
        with self.course.stage("replay", progress=False) as said:
            from serving.simulation.replay_run import rehearse

            self.replayed = rehearse(self.settings, self.case, self.spec, (self.first_us, self.last_us), self.step_minutes, self.console)
            tally = self.replayed
            if tally.failed:
                self.problems.append(f"{tally.failed} requests failed; the first: {tally.errors[0]}")
            said(f"{tally.predictions:,} predictions, {tally.events:,} events, {tally.labels:,} labels")
        with self.course.stage("watch") as said:
            self._watch(said)
        with self.course.stage("skew") as said:
            self._skew(said)

    def _watch(self, said: Callable[[str], None]) -> None:
        from feature_repo.records.verdict import history

        service = services.watch(self.spec.name)
        process.stop(self.settings, service.name)
        argv = [sys.executable, str(ROOT / "headrace.py"), "watch", self.spec.name, "--once"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise StageFailed(done.stderr.strip()[-500:] or "the watch failed")
        if self.keep:
            services.start(self.settings, service)
        self.watched = [v for v in history(self.settings, self.spec.name) if v.version == self.contract.version]
        if not self.watched:
            said(_no_verdict(self.replayed.predictions, self.case.model(self.spec.name).watch.window))
            return
        drifted = sum(v.drift for v in self.watched)
        said(f"{len(self.watched)} verdicts, {drifted} say drift")

    def _skew(self, said: Callable[[str], None]) -> None:
        from streaming.offline.spark import session
        from streaming.online.store import connect

        if not self.keep:  # the services have done their work: leave the memory to Spark
            process.stop(self.settings, "stream")
            process.stop(self.settings, "serve", grace_s=40)  # flushes the prediction log
        client = connect(self.settings.redis())
        deadline = time.monotonic() + 15
        while True:
            log = self.training["skew"].read_log(client, self.case.project, self.spec.name, self.contract.version)
            lost = self.replayed.scores.keys() - {one.id for one in log}  # others may have asked meanwhile
            if not lost or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        spark = session(self.settings)
        self.skew = self.training["skew"].prove(lambda: spark, self.case, self.settings, self.contract, log)
        spark.stop()
        said(f"{self.skew.cells:,} cells: {self.skew.wrong} wrong, {self.skew.late / self.skew.cells:.2%} late")
        if self.skew.wrong:
            first = self.skew.examples[0]
            self.problems.append(f"{self.skew.wrong} cells are wrong, such as {first.feature} of {first.prediction}")
        if lost:
            self.problems.append(f"{len(lost):,} of {self.replayed.predictions:,} predictions that were answered are not in the log")

    def _truth(self) -> tuple[Any, Any, Any]:
        """Moments (microseconds), labels and scores of predictions whose truth is known, arrays `[n]`."""
        known = [(at, label, self.replayed.scores[i]) for i, (at, label) in self.replayed.truth.items() if i in self.replayed.scores]
        if not known:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        at, label, score = (np.array(column) for column in zip(*known, strict=True))
        return at, label, score

    def live(self) -> dict[str, float]:
        """Metrics of the replay against the truth that came in; empty where only one class did."""
        _, label, score = self._truth()
        return self.training["evaluate"].metrics_of(label, score) if len(set(label.tolist())) == 2 else {}

    def _report(self) -> Any:
        from serving.simulation import demo_report as page

        made, metrics, live = self.contract, {}, self.live()
        for name, m in {**(made.metrics if made else {}), **({"replay": live} if live else {})}.items():
            metrics[name] = page.Quality(int(m["rows"]), m.get("auc"), m.get("log_loss"), m.get("brier"))
        roc, calibration, days = [], [], []
        at, label, score = self._truth()
        if live:
            curves = self.training["evaluate"].curves(label, score)
            roc.append(page.Curve("replay", [(float(x), float(y)) for x, y in curves["roc"]]))
            calibration.append(page.Calibration("replay", [(float(p), float(o), int(n)) for p, o, n in curves["calibration"]]))
            days = [page.Day(day, n, auc, low, high) for day, n, auc, low, high in _by_day(at, label, score)]
        skew = None
        if self.skew:
            whole = self.skew.lag_s()
            of = [(v, self.skew.lag_s(v)) for v in self.skew.views]
            skew = page.Skew(
                self.skew.predictions,
                self.skew.cells,
                self.skew.wrong,
                self.skew.late,
                page.Quantiles(**whole) if whole else None,
                [page.SkewView(v.view, v.cells, v.wrong, v.late, page.Quantiles(**lag) if lag else None) for v, lag in of],
            )
        total = sum(self.replayed.statuses.values())
        return page.ReportData(
            model=self.spec.name,
            version=made.version if made else 0,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            description=self.spec.description,
            period=(day_text(self.first_us), day_text(self.last_us)),
            problems=self.problems,
            stages=[page.Stage(**s) for s in self.course.stages],
            rows=sum(self.rows.values()) or None,
            predictions=self.replayed.predictions or None,
            metrics=metrics,
            roc=roc,
            calibration=calibration,
            live_auc=days,
            latency_ms=page.Distribution.of(self.replayed.latency_ms),
            freshness_s=page.Distribution.of(self.replayed.freshness_s),
            drift=page.Watched.of(self.watched),
            skew=skew,
            statuses={k: v / total for k, v in self.replayed.statuses.items()} if total else {},
            parity=made.parity if made else None,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )

    def _write_json(self, path: Path) -> None:
        import msgspec

        def quantiles(samples: list[float]) -> dict[str, float] | None:
            return {"p50": float(np.quantile(samples, 0.5)), "p99": float(np.quantile(samples, 0.99))} if samples else None

        live = self.live()
        at, label, score = self._truth()
        result = {
            "model": self.spec.name,
            "version": self.contract.version if self.contract else None,
            "ok": not self.problems and all(s["ok"] for s in self.course.stages),
            "problems": self.problems,
            "rows": self.rows,
            "stages": self.course.stages,
            "seconds": sum(s["seconds"] for s in self.course.stages),
            "auc_valid": self.contract.metrics["valid"]["auc"] if self.contract else None,
            "auc_test": self.contract.metrics.get("test", {}).get("auc") if self.contract else None,
            "auc_replay": live.get("auc"),
            "auc_by_day": [{"day": d, "rows": n, "auc": auc} for d, n, auc, _, _ in _by_day(at, label, score)],
            "predictions": self.replayed.predictions,
            "failed": self.replayed.failed,
            "events": self.replayed.events,
            "labels": self.replayed.labels,
            "latency_ms": quantiles(self.replayed.latency_ms),
            "freshness_s": quantiles(self.replayed.freshness_s),
            "skew": self.skew.summary() if self.skew else None,
            "drift": [
                {"at_us": v.at_us, "drift": v.drift, "features": [f.name for f in v.features if f.drift], "score": v.score.drift}
                for v in self.watched
            ],
            "parity": self.contract.parity if self.contract else None,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))


def _no_verdict(predictions: int, window: int) -> str:
    """Why the watch has judged nothing, where that is as it should be.

    Raises:
        StageFailed: there was enough to judge.
    """
    if predictions >= window:
        raise StageFailed(f"the watch gave no verdict on {predictions:,} predictions; a window is {window:,}")
    return f"no verdict yet: {predictions:,} predictions, and the watch judges {window:,} at a time; a longer --days gives one"


def _by_day(at: Any, label: Any, score: Any) -> list[tuple[str, int, float | None, float | None, float | None]]:
    """Per UTC day: rows, AUC and its 95 % interval (Hanley & McNeil 1982); None where a day has one class only."""
    from sklearn.metrics import roc_auc_score

    groups: dict[str, list[int]] = defaultdict(list)
    for i, us in enumerate(at.tolist()):
        groups[day_text(us)].append(i)
    rows: list[tuple[str, int, float | None, float | None, float | None]] = []
    for day, index in sorted(groups.items()):
        y, s = label[index], score[index]
        positive, negative = int(y.sum()), int(len(y) - y.sum())
        if not positive or not negative:
            rows.append((day, len(index), None, None, None))
            continue
        auc = float(roc_auc_score(y, s))
        q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        variance = (auc * (1 - auc) + (positive - 1) * (q1 - auc**2) + (negative - 1) * (q2 - auc**2)) / (positive * negative)
        margin = 1.96 * max(variance, 0.0) ** 0.5
        rows.append((day, len(index), auc, max(0.0, auc - margin), min(1.0, auc + margin)))
    return rows
