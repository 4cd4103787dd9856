"""A long stretch of history lived by the learning loop, unattended: one model to begin with, and everything after that by itself.

Requests go over HTTP to the running server, events through the stream, truths in as feedback; after each day of that time the watch judges
and the autopilot takes its steps, while time stands still. What the loop did is told beside what other policies would have come to on the
same stream. Training is handed in by the front door, since serving does not import it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from feature_repo.records import release
from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.verdict import Verdict, history
from feature_repo.spec.use_case import UseCase
from infra import redis_client
from infra.settings import Settings
from infra.supervision import process, redis_server, services
from infra.timestamps import day_text
from serving.simulation.replay import Replayed
from serving.simulation.stages import Course, StageFailed

if TYPE_CHECKING:
    from rich.console import Console

DAY_US = 86_400_000_000


class Loop(Protocol):
    """What is needed of training (`training.retraining.simulation_port`)."""

    def first(self, case: UseCase, model: str, at_us: int) -> int: ...

    def pilot(self, case: UseCase, model: str) -> Any: ...

    def skew(self, case: UseCase, model: str, version: int) -> Any: ...

    def policies(self, case: UseCase, model: str, first_us: int, last_us: int) -> list[Any]: ...


class Year:
    """One run over `[first, last)`, microseconds."""

    def __init__(
        self, settings: Settings, case: UseCase, model: str, span: tuple[int, int], step_minutes: float, console: Console, loop: Loop
    ) -> None:
        self.settings, self.case, self.spec = settings, case, case.model(model)
        self.first_us, self.last_us = span
        self.step_minutes, self.console, self.loop = step_minutes, console, loop
        self.course = Course(console)
        self.replayed = Replayed()
        self.problems: list[str] = []
        self.skew: dict[int, Any] = {}
        self.outcomes: list[Any] = []

    def run(self, report: Path | None) -> bool:
        """Live it; returns whether nothing failed. Stops what it started."""
        self.console.print(
            f"[bold]Headrace on autopilot[/bold]: {self.case.project}, {self.spec.name}, {day_text(self.first_us)} to {day_text(self.last_us)}"
        )
        try:
            self._stages()
        except StageFailed as failed:
            self.problems.append(f"stage {failed} failed")
        finally:
            with self.console.status("shutting down"):
                services.stop_all(self.settings)
        from serving.simulation.year_report import YearData, summary, write

        data = YearData.of(self)
        page = self.settings.state / "year.html"
        write(data, page)
        self.console.print(summary(data))
        self.console.print(f"report: {page}")
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))
            self.console.print(f"JSON: {report}")
        for problem in self.problems:
            self.console.print(f"[red]{problem}[/red]")
        return not self.problems

    def decisions(self) -> list[Decision]:
        return Journal(self.settings.state, self.spec.name).read()

    def verdicts(self) -> list[Verdict]:
        return history(self.settings, self.spec.name)

    def _stages(self) -> None:
        from feature_repo.registry.apply import apply_definitions
        from feature_repo.registry.plan import proposed
        from streaming.backfill.run import backfill
        from streaming.offline.ingest import make_tables
        from streaming.offline.spark import session
        from streaming.schema.compilation import check_view
        from streaming.schema.feature_view import views

        stage = self.course.stage
        with stage("set-up") as said:
            if release.read(self.settings.model_root, self.spec.name) is not None:
                raise RuntimeError(
                    f"{self.settings.state} has a live model already: a year begins without one. Give a state folder of its own "
                    "(./headrace --state DIR demo --year)"
                )
            redis_server.up(self.settings)
            spark = session(self.settings)
            said("Redis and Spark are up")
        with stage("ingest") as said:
            loaded = make_tables(self.case, self.settings, spark)
            said(f"{sum(one.rows for one in loaded):,} rows in {len(loaded)} tables")
        with stage("apply") as said:
            with proposed(self.case) as after:
                check_view(after.store, {m.name: m.feature_service for m in self.case.models.values()})
            said(f"{len(apply_definitions(self.case).views)} views")
        with stage("backfill") as said:
            compiled = list(views(self.case.store).values())
            done = backfill(spark, compiled, self.settings.offline_root, self.settings.redis(), self.first_us, rewind=True)
            if failed := [f"{d.view}: {d.error}" for d in done if d.error]:
                raise RuntimeError("; ".join(failed))
            said(f"{len(done)} views to {day_text(self.first_us)}")
        spark.stop()
        with stage("first model") as said:
            version = self.loop.first(self.case, self.spec.name, self.first_us)
            release.promote(self.settings.model_root, self.spec.name, version, f"the first, on what was known by {day_text(self.first_us)}")
            said(f"version {version} is live")
        with stage("serve") as said:
            for service in (services.serve(), services.stream()):
                services.start(self.settings, service)
            said("Ray Serve and the stream are ready")
        with stage("live", progress=False) as said:
            self._live()
            tally = self.replayed
            said(f"{tally.predictions:,} predictions, {tally.failed} failed, {tally.labels:,} truths; {len(self.decisions())} decisions")
        with stage("skew") as said:
            process.stop(self.settings, "stream")
            process.stop(self.settings, "serve", grace_s=40)  # flushes the prediction log
            self._skew(said)
        with stage("policies") as said:
            self.outcomes = self.loop.policies(self.case, self.spec.name, self.first_us, self.last_us)
            said(", ".join(f"{o.policy} AUC {o.total['auc']:.4f} ({len(o.trainings)} trainings)" for o in self.outcomes))

    def _live(self) -> None:
        from serving.monitoring.around import Around
        from serving.monitoring.watch import Watch
        from serving.simulation.replay_run import rehearse

        client = redis_client.client(self.settings.redis())
        watch = Watch(client, self.settings, self.case.project, self.spec.name, self.spec.watch.window, self.spec.watch.step)
        watch.around = Around(client, self.settings, self.case.project, self.spec.name, rest=0)  # time stands still: nobody waits
        pilot = self.loop.pilot(self.case, self.spec.name)
        evening = self.first_us + DAY_US
        said = ""

        def between(at_us: int, tally: Replayed, show: Callable[[str], None]) -> None:
            nonlocal evening, said
            if at_us < evening:
                return
            evening = at_us - at_us % DAY_US + DAY_US
            show(f"{day_text(at_us)}: the watch judges")
            while watch.poll(None):
                pass
            show(f"{day_text(at_us)}: the autopilot's step; last: {said}")
            before = len(self.decisions())
            said = pilot.step()
            for one in self.decisions()[before:]:
                self.console.print(f"   {day_text(one.at_us)}  {one.step}: {one.text[:200]}", style="dim", highlight=False)

        self.replayed = rehearse(
            self.settings, self.case, self.spec, (self.first_us, self.last_us), self.step_minutes, self.console, between
        )
        while watch.poll(None):
            pass
        pilot.step()
        client.close()
        if self.replayed.failed:
            self.problems.append(f"{self.replayed.failed} requests failed; the first: {self.replayed.errors[0]}")

    def _skew(self, said: Callable[[str], None]) -> None:
        pilot = self.loop.pilot(self.case, self.spec.name)
        pilot.archive.run(pilot.client)
        roles = pilot.archive.predictions(self.spec.name, columns=["prediction_id", "event_timestamp", "model_version", "role"])
        answered = roles.filter([r != "shadow" for r in roles["role"].to_pylist()])
        if answered.num_rows != self.replayed.predictions:
            self.problems.append(f"{self.replayed.predictions:,} predictions were answered, but {answered.num_rows:,} are archived")
        for version in sorted(set(answered["model_version"].to_pylist())):
            self.skew[version] = self.loop.skew(self.case, self.spec.name, version)
        cells, wrong, late = (sum(getattr(s, name) for s in self.skew.values()) for name in ("cells", "wrong", "late"))
        said(
            f"{cells:,} cells of {answered.num_rows:,} predictions by {len(self.skew)} versions: {wrong} wrong, {late / max(cells, 1):.2%} late"
        )
        if wrong:
            self.problems.append(f"{wrong} cells are wrong")
