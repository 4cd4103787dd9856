"""On-demand functions that take their time: nobody waits for them but who asked, and nobody longer than the deadline."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.features import on_demand as module
from serving.features import threads
from serving.features.on_demand import OnDemand
from serving.features.reader import FeatureRows
from serving.inference.predictor import Predictor
from serving.inference.recorder import Asked
from serving.protocol.problem import Invalid, Late
from serving.protocol.request import Question
from streaming.join.on_demand import transformation
from tests.serving.inference.test_predictor import Shop
from tests.serving.shop import FEATURES, INSTANCE, ratio, shelves, view
from tests.serving.shop_server import PREDICT, Server, problem

LOOP = threading.get_ident()


def read(rows: int) -> FeatureRows:
    values = np.full((rows, len(FEATURES)), 2.0)
    return FeatureRows(values, np.full(values.shape, ord("f"), dtype=np.uint8), np.zeros((rows, 2)), [{}] * rows, [{}] * rows)


def compiled(udf: Callable[..., Any], counts: Counter[tuple[str, str]] | None = None) -> OnDemand:
    return OnDemand([transformation(view(udf), "pricing", ["price_ratio"], [])], FEATURES, counts)


async def ask(one: OnDemand, rows: int = 1, left_s: float = 5.0) -> list[Any]:
    """As a predictor asks."""
    request: dict[str, Any] = {"price": [4.0] * rows, "asked_at": [None] * rows}
    answer = one.run(request, read(rows)) if one.at_once(rows) else await one.answer(request, read(rows), left_s)
    return answer["pricing:price_ratio"]


async def longest_wait(during: Awaitable[Any]) -> tuple[float, Any]:
    """How long the event loop kept others waiting at most, seconds; and what came of it (an error is a result, too)."""
    task, longest, last = asyncio.ensure_future(during), 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.005)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest, task.exception() or task.result()


@pytest.fixture
def gate() -> Any:
    """Lets functions that hang go on, at the latest when the test ends."""
    made = threading.Event()
    yield made
    made.set()


def test_a_function_that_sleeps_holds_nobody_not_even_the_first_time(gate: threading.Event) -> None:
    def sleeps(inputs: dict[str, Any]) -> dict[str, Any]:
        gate.wait(3)
        return ratio(inputs)

    counts: Counter[tuple[str, str]] = Counter()

    async def scenario() -> None:
        one = compiled(sleeps, counts)
        started = time.perf_counter()
        waited, error = await longest_wait(ask(one, left_s=0.2))
        assert isinstance(error, Late)
        assert time.perf_counter() - started < 2, "the deadline of 0.2 s, not the sleep of 3"
        assert waited < 1.0, "the loop went on meanwhile"
        assert "'pricing'" in error.detail
        assert (error.status, error.headers["retry-after"]) == (504, "1")
        one.close()

    asyncio.run(scenario())
    assert counts == {("pricing", "late"): 1}


def test_however_many_hang_there_are_few_threads_and_a_quick_view_goes_on(gate: threading.Event) -> None:
    def hangs(_: dict[str, Any]) -> Any:
        gate.wait(60)

    async def scenario() -> None:
        one, quick = compiled(hangs), compiled(ratio)
        before = threading.active_count()
        waited, found = await longest_wait(asyncio.gather(*(ask(one, left_s=0.1) for _ in range(30)), return_exceptions=True))
        assert {type(error) for error in found} == {Late}
        assert threading.active_count() - before <= module.THREADS
        assert waited < 1.0
        assert await ask(quick) == [2.0]
        one.close()
        quick.close()

    asyncio.run(scenario())


def test_what_waits_for_a_thread_beyond_its_deadline_is_never_run(gate: threading.Event) -> None:
    calls: list[int] = []

    def hangs(inputs: dict[str, Any]) -> Any:
        calls.append(1)
        gate.wait(60)
        return ratio(inputs)

    async def scenario() -> None:
        one = compiled(hangs)
        await asyncio.gather(*(ask(one, left_s=0.05) for _ in range(20)), return_exceptions=True)
        gate.set()
        assert await ask(one) == [2.0]
        assert len(calls) == module.THREADS + 1
        one.close()

    asyncio.run(scenario())


def test_calls_that_never_return_are_named_and_others_get_threads_all_the_same(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function may wait for ever on one value only; the others' requests are answered, until four times as many threads are gone."""
    monkeypatch.setattr(threads, "STUCK_S", 0.2)
    poison = threading.Event()

    def hangs(inputs: dict[str, Any]) -> Any:
        if poison.is_set():
            gate.wait(60)
        return ratio(inputs)

    async def scenario() -> None:
        one = compiled(hangs)
        for times in range(threads.TIMES):
            poison.set()
            found = await asyncio.gather(*(ask(one, left_s=0.5) for _ in range(module.THREADS)), return_exceptions=True)
            assert {type(error) for error in found} == {Late}, times
            poison.clear()
            until = time.monotonic() + 10
            while f": {(times + 1) * module.THREADS} of" not in one.trouble and time.monotonic() < until:
                await asyncio.sleep(0.05)
            assert one.trouble.startswith(
                f"calls of on-demand functions do not return: {(times + 1) * module.THREADS} of on-demand view 'pricing'"
            )
            if times + 1 < threads.TIMES:
                assert await ask(one) == [2.0], times
        assert one.trouble.endswith("; no thread is left for the others")
        with pytest.raises(Late, match="calls of on-demand view 'pricing' do not return"):
            await ask(one, left_s=0.1)
        gate.set()
        until = time.monotonic() + 10
        while one.trouble and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert one.trouble == ""
        assert await ask(one) == [2.0]
        one.close()

    asyncio.run(scenario())


def test_who_only_waited_for_a_thread_is_not_blamed(gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    def hangs(inputs: dict[str, Any]) -> Any:
        gate.wait(60)
        return ratio(inputs)

    async def scenario() -> None:
        counts: Counter[tuple[str, str]] = Counter()
        one = compiled(hangs, counts)
        busy = [asyncio.ensure_future(ask(one, left_s=30)) for _ in range(module.THREADS)]
        await asyncio.sleep(0.1)
        with caplog.at_level(logging.WARNING, "serving.features.on_demand"), pytest.raises(Late, match="too many wait for a thread"):
            await ask(one, left_s=0.2)
        assert (counts["pricing", "waited"], caplog.records) == (1, [])
        gate.set()
        await asyncio.gather(*busy)
        one.close()

    asyncio.run(scenario())


def test_an_answer_after_the_deadline_is_none_though_nobody_could_be_told_before() -> None:
    """A call that keeps the interpreter to itself: a regular expression that backtracks."""

    def spins(inputs: dict[str, Any]) -> Any:
        re.match(r"(a|a)*$", "a" * 22 + "b")
        return ratio(inputs)

    async def scenario() -> None:
        one = compiled(spins)
        began = time.perf_counter()
        with pytest.raises(Late, match="its function is slow"):
            await ask(one, left_s=0.01)
        assert time.perf_counter() - began > 0.01
        one.close()

    asyncio.run(scenario())


def test_a_deadline_that_has_passed_runs_nothing() -> None:
    calls: list[int] = []

    async def scenario() -> None:
        with pytest.raises(Late):
            await ask(compiled(lambda i: calls.append(1)), left_s=-0.1)

    asyncio.run(scenario())
    assert not calls


def test_a_quick_function_comes_to_the_loop_and_a_slow_call_there_takes_it_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.2)
    where: list[bool] = []
    sleep_s = [0.0]

    def udf(inputs: dict[str, Any]) -> dict[str, Any]:
        where.append(threading.get_ident() == LOOP)
        time.sleep(sleep_s[0])
        return ratio(inputs)

    counts: Counter[tuple[str, str]] = Counter()

    async def scenario() -> None:
        one = compiled(udf, counts)
        for _ in range(module.PROVEN + 2):
            assert await ask(one) == [2.0]
        assert where == [False] * module.PROVEN + [True] * 2
        sleep_s[0] = 0.25
        assert await ask(one, module.OFF_LOOP_ROWS + 1) == [2.0] * (module.OFF_LOOP_ROWS + 1)
        assert where.pop() is False, "many rows are not for the loop"
        sleep_s[0] = 0.0
        assert await ask(one) == [2.0]
        assert where.pop() is True, "and say nothing of few"
        sleep_s[0] = 0.25
        assert await ask(one) == [2.0]
        assert where.pop() is True, "the one that nobody foresaw"
        sleep_s[0] = 0.0
        for _ in range(3 * module.PROVEN):
            assert await ask(one) == [2.0]
        assert where[-3 * module.PROVEN :] == [False] * 3 * module.PROVEN
        one.close()

    with caplog.at_level(logging.WARNING, "serving.features.on_demand"):
        asyncio.run(scenario())
    assert counts["pricing", "held"] == 1
    assert len(caplog.records) == 1
    assert "'pricing' took 2" in caplog.text
    assert "thread" in caplog.text


def test_a_function_that_is_slow_now_and_then_never_comes_to_the_loop(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.1)
    calls, on_loop = [0], [0]

    def udf(inputs: dict[str, Any]) -> dict[str, Any]:
        calls[0] += 1
        on_loop[0] += threading.get_ident() == LOOP
        time.sleep(0.12 if calls[0] % module.PROVEN == 0 else 0)
        return ratio(inputs)

    async def scenario() -> None:
        one = compiled(udf)
        for _ in range(4 * module.PROVEN):
            await ask(one)
        one.close()

    with caplog.at_level(logging.WARNING, "serving.features.on_demand"):
        asyncio.run(scenario())
    assert on_loop == [0]
    assert len(caplog.records) == 1, "told once"


@pytest.mark.parametrize("calls", [1, module.PROVEN + 1], ids=["in a thread", "on the loop"])
def test_what_it_raises_is_an_answer_about_the_row_wherever_it_runs(calls: int) -> None:
    def udf(inputs: dict[str, Any]) -> dict[str, Any]:
        if len(seen) < calls - 1:
            seen.append(1)
            return ratio(inputs)
        raise SystemExit("bye")

    seen: list[int] = []

    async def scenario() -> None:
        one = compiled(udf)
        for _ in range(calls - 1):
            await ask(one)
        with pytest.raises(module.OnDemandError, match="'pricing' failed on this row: SystemExit"):
            await ask(one)
        one.close()

    asyncio.run(scenario())


def slow_shop(folder: Path, udf: Callable[..., Any]) -> Shop:
    shop = Shop(folder)
    shop.predictor.assemble.on_demand = compiled(udf, shop.metrics.on_demand)
    return shop


def test_a_prediction_with_a_slow_function_keeps_its_deadline_and_its_number(tmp_path: Path, gate: threading.Event) -> None:
    def sleeps(inputs: dict[str, Any]) -> dict[str, Any]:
        gate.wait(0.3)
        return ratio(inputs)

    shop = slow_shop(tmp_path, sleeps)
    with pytest.raises(Late, match="'pricing'"):
        shop.ask(INSTANCE, deadline_s=0.05)
    assert not shop.logged
    (tmp_path / "quick").mkdir()
    assert shop.ask(INSTANCE, deadline_s=20).predictions[0].score == Shop(tmp_path / "quick").ask(INSTANCE).predictions[0].score
    text = shop.metrics.text().decode()
    assert 'headrace_on_demand_slow_total{outcome="late",view="pricing"} 1.0' in text
    assert 'headrace_on_demand_slow_total{outcome="answered",view="pricing"} 1.0' in text


def test_a_slow_shadow_holds_nobody(tmp_path: Path, gate: threading.Event) -> None:
    def sleeps(inputs: dict[str, Any]) -> dict[str, Any]:
        gate.wait(1.5)
        return ratio(inputs)

    shop = slow_shop(tmp_path, sleeps)

    async def scenario() -> None:
        question = Question([INSTANCE], {"asked_at": [None]}, False, False, None)
        rows = await shelves().read([INSTANCE], 0)
        waited, error = await longest_wait(shop.predictor.follow([Asked(question, rows, 0, 0, ["id"])], read=False))
        assert isinstance(error, Late)
        assert waited < 1.0

    asyncio.run(scenario())


def test_other_models_calls_go_on_while_a_function_hangs(tmp_path: Path, redis_url: str, gate: threading.Event) -> None:
    server = Server(tmp_path, redis_url)
    server.version()

    def hangs(inputs: dict[str, Any]) -> Any:
        gate.wait(60)

    async def scenario(client: Any) -> Any:
        server.plane.models.live[0].assemble.on_demand = compiled(hangs, server.plane.metrics.on_demand)

        async def predict() -> Any:
            return await client.post(PREDICT, json={"instances": [INSTANCE]}, headers={"X-Request-Timeout-Ms": "300"})

        async def others() -> float:
            await asyncio.sleep(0.05)
            started = time.perf_counter()
            assert (await client.get("/healthz")).status_code == 200
            return time.perf_counter() - started

        *late, took_s = await asyncio.gather(predict(), predict(), others())
        return late, took_s, (await client.get("/metrics")).text, (await client.get("/openapi.json")).json()

    late, took_s, text, document = server.run(scenario)
    for answer in late:
        said = problem(answer, 504)
        assert said["type"] == "urn:headrace:problem:late"
        assert "On-demand view 'pricing'" in said["detail"]
        assert answer.headers["retry-after"] == "1"
    assert took_s < 0.25
    assert re.search(r'headrace_requests_total\{model="sells_out",replica="[^"]*",status="504",version="1"\} 2\.0', text)
    for path in ("/v1/models/{model}/predict", "/v1/models/sells_out/predict", "/v2/models/{model}/infer", "/get-online-features"):
        assert "504" in document["paths"][path]["post"]["responses"], path


def test_a_hanging_function_does_not_keep_a_process_from_ending() -> None:
    import subprocess
    import sys

    from infra.settings import ROOT

    program = (
        "import asyncio, threading\n"
        "from tests.serving.features.test_slow_functions import ask, compiled\n"
        "async def main():\n"
        "    one = compiled(lambda _: threading.Event().wait(300))\n"
        "    try:\n"
        "        await ask(one, left_s=0.05)\n"
        "    finally:\n"
        "        one.close()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "Late" in done.stderr


def test_an_invalid_row_is_told_as_ever(tmp_path: Path) -> None:
    shop = slow_shop(tmp_path, lambda i: {"price_ratio": [1 / 0]})
    with pytest.raises(Invalid, match="row 0: on-demand view 'pricing' failed on this row: ZeroDivisionError"):
        shop.ask(INSTANCE)
    assert isinstance(shop.predictor, Predictor)
