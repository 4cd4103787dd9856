"""One budget for all doors."""

from __future__ import annotations

import asyncio

import grpc
import httpx
import msgspec
import pytest

from serving.grpc.servicer import InferenceCalls
from tests.serving.grpc.inference import Context, asked
from tests.serving.house import INFER, PREDICT, TENSORS, House
from tests.serving.shop import INSTANCE


def test_predictions_over_http_and_grpc_are_admitted_from_one_budget(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at once, however they are shared out between the doors; then 503 and UNAVAILABLE, and each place is given back."""
    monkeypatch.setattr(shop.plane.admission, "most", 3)
    body = msgspec.json.encode({"instances": [INSTANCE]})

    async def over_http(path: str, body: bytes) -> int:
        transport = httpx.ASGITransport(shop.front, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post(path, content=body)
            assert answer.status_code != 503 or answer.headers["retry-after"] == "1"
            return answer.status_code

    async def over_grpc() -> int:
        context = Context({})
        await InferenceCalls(shop.plane).ModelInfer(asked(), context)
        return {grpc.StatusCode.OK: 200, grpc.StatusCode.UNAVAILABLE: 503}[context.code]

    async def all_at_once() -> list[int]:
        doors = [over_http(PREDICT, body), over_grpc(), over_http(INFER, msgspec.json.encode(TENSORS))]
        return await asyncio.gather(*doors, *(over_grpc() for _ in range(4)), *(over_http(PREDICT, body) for _ in range(4)))

    found = shop.loop.run_until_complete(all_at_once())
    assert sorted(found) == [200] * 3 + [503] * 8
    assert shop.plane.admission.at_work == 0
    for call in (over_grpc(), over_http(PREDICT, body), over_http(PREDICT, b"{"), over_http(INFER, b"{}")):
        assert shop.loop.run_until_complete(call) in (200, 400, 422)
        assert shop.plane.admission.at_work == 0
