"""The second use case taken through the platform, for the tests that need one that is live."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.records import release
from feature_repo.records.contract import Contract
from feature_repo.registry.apply import apply_definitions
from feature_repo.spec.model import ModelSpec
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from streaming.backfill.run import Backfilled, backfill
from streaming.offline.ingest import make_tables
from streaming.schema.feature_view import View, views
from tests.bikes.generate import START, generate
from training.data.training_set import TrainingSet, build
from training.registration.register import train_and_register

SEAM = datetime(2021, 3, 13, tzinfo=UTC)
SEAM_US = round(SEAM.timestamp() * 1e6)


@dataclass
class Bikes:
    settings: Settings
    case: UseCase
    spec: ModelSpec
    views: dict[str, View]
    training_set: TrainingSet
    contract: Contract
    spark: Any

    @classmethod
    def make(cls, state: Settings, spark: Any, folder: Path, start: datetime = START, seam_us: int = SEAM_US) -> Bikes:
        """Data from `start` on, in the online store as of `seam_us`."""
        case = generate(folder, start=start)
        settings = state.model_copy(update={"repo": folder, "redis_url": state.redis()})
        settings.export()
        make_tables(case, settings, spark)
        apply_definitions(case)
        compiled = views(case.store)
        bikes = cls(settings, case, case.model("turned_away"), compiled, None, None, spark)  # type: ignore[arg-type]
        bikes.backfill(seam_us)
        bikes.training_set = build(spark, case, settings, bikes.spec)
        bikes.contract = train_and_register(bikes.spec, bikes.training_set, settings)
        release.promote(settings.model_root, bikes.spec.name, bikes.contract.version)
        return bikes

    def backfill(self, end_us: int = SEAM_US) -> list[Backfilled]:
        done = backfill(self.spark, list(self.views.values()), self.settings.offline_root, self.settings.redis(), end_us, rewind=True)
        assert not [d.error for d in done if d.error]
        return done

    def events(self, view: View) -> list[dict[str, Any]]:
        """Every row of a view's offline table."""
        import pyarrow.dataset as ds

        return ds.dataset(self.settings.offline_root / view.path, format="parquet").to_table().to_pylist()
