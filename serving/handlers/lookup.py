"""A prediction's passport: what one answer was made of, looked up by its id for as long as the log is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.records.contract import Contract
from feature_repo.records.prediction import STATUSES, Mark, Prediction, id_ms, known_truths, logged, rows
from feature_repo.records.redis_keys import prediction_log_key
from infra.timestamps import moment_at
from serving.protocol.answer import Contribution

STATUS = {status.letter: status.name for status in STATUSES}
_LOOK_MS = ((-100, 1_000), (-5_000, 60_000))
"""Around the id's own time: the log is written a moment after the answer, later where Redis was away."""
_PAGE = 2000
_RETRY_S = (0.0, 0.1, 0.3)
"""An answer that has just been given may not have reached the log yet."""


async def find(client: Any, project: str, number: str, retries: tuple[float, ...] = _RETRY_S) -> Prediction | None:
    """The logged prediction of an id; None where the log has none (any more).

    Args:
        client: a `redis.asyncio` client (bytes).
        retries: seconds to wait before each look.
        number: a prediction id (`serving.telemetry.prediction_id`).
    """
    at_ms, wanted = id_ms(number), f'"{number}"'.encode()
    for pause in retries:
        await asyncio.sleep(pause)
        for before, after in _LOOK_MS:
            start: bytes | str = f"{max(at_ms + before, 0)}-0"
            while True:
                entries = await client.xrange(prediction_log_key(project), start, f"{at_ms + after}", count=_PAGE)
                for _, fields in entries:
                    # the id of the answer stands first; a shadow's entry names it too, and is not it
                    if wanted not in fields.get(b"p", b""):
                        continue
                    with contextlib.suppress(ValueError):  # an entry that is broken is not the one
                        if (found := logged(fields, Prediction)).id == number:
                            return found
                if len(entries) < _PAGE:
                    break
                start = b"(" + entries[-1][0]
    return None


def served(contract: Contract, prediction: Prediction) -> NDArray[np.float64]:
    """What the model got, float64 [1, inputs]."""
    return contract.model_inputs(*rows([prediction.values], [prediction.statuses], len(contract.inputs)))


async def passport(
    prediction: Prediction,
    contract: Contract,
    label: bytes | None,
    explain: Callable[[NDArray[np.float64]], Awaitable[list[list[Contribution]]]] | None,
) -> dict[str, Any]:
    """Everything that is known of one prediction.

    Args:
        contract: of the version that made it.
        label: as it was kept (JSON), where it is known.
        explain: gives contributions, where the version carries them.

    Raises:
        ValueError: the entry is not one of that version.
    """
    if not len(prediction.values) == len(prediction.statuses) == len(contract.inputs) or not set(prediction.statuses) <= set(STATUS):
        raise ValueError(
            f"{len(prediction.values)} values with statuses {prediction.statuses[:40]!r} are none of version {contract.version}"
        )
    vector = served(contract, prediction)
    of_input = {i.name: i for i in contract.inputs}
    features = {}
    for name, value, letter, got in zip(contract.names, prediction.values, prediction.statuses, vector[0].tolist(), strict=True):
        asked = of_input[name]
        alias = asked.source.partition(":")[0] if asked.kind == "feature" else None
        features[name] = {
            "value": value,
            "served": None if got != got else got,
            "status": STATUS[letter],
            "age_s": _age_s(prediction.marks.get(alias), prediction.at_us) if alias else None,
            "source": asked.source,
            "definition": contract.definitions.get(asked.source),
        }
    contributions = (await explain(vector))[0] if explain is not None else None
    truth = known_truths(label)
    return {
        "prediction_id": prediction.id,
        "model": prediction.model,
        "model_version": prediction.version,
        "role": prediction.role,
        "of": prediction.of,
        "at": _iso(prediction.at_us),
        "answered_at": _iso(prediction.wall_us),
        "score": prediction.score,
        "request": prediction.request,
        "features": features,
        "views": {alias: {"high_water_mark": msgspec.structs.asdict(m)} for alias, m in prediction.marks.items()},
        "feature_service": contract.feature_service,
        "definition_hash": contract.definition_hash,
        "model_sha256": contract.files.get("model.onnx"),
        "contributions": contributions,
        "label": None if truth is None else {"label": truth.label, "known_at": _iso(truth.at_us)},
        "earlier_labels": [] if truth is None else [{"label": label, "known_at": _iso(at)} for label, at in truth.before],
    }


def _age_s(mark: Mark | None, at_us: int) -> float | None:
    if mark is None:
        return None
    newest = mark.known_us if mark.event_us is None else mark.event_us
    return None if newest is None else (at_us - newest) / 1e6


def _iso(us: int) -> str:
    return moment_at(us).isoformat()
