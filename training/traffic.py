"""What the server says of its versions: requests, failures and latency, from its own metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from training.stages import Traffic

Scrape = Callable[[], str | None]
"""The metrics in Prometheus' text format; None where no server answers."""


def http(url: str, timeout_s: float = 2.0) -> Scrape:
    """The metrics of a running server."""
    import httpx

    def scrape() -> str | None:
        try:
            answer = httpx.get(url, timeout=timeout_s)
        except httpx.HTTPError:
            return None
        return answer.text if answer.status_code == 200 else None

    return scrape


def by_version(text: str, model: str) -> dict[int, Traffic]:
    """Each version's requests so far."""
    from prometheus_client.parser import text_string_to_metric_families

    answered: dict[int, int] = defaultdict(int)
    failed: dict[int, int] = defaultdict(int)
    latency: dict[int, dict[float, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        if family.name not in ("headrace_requests", "headrace_request_ms"):
            continue
        for sample in family.samples:
            version = sample.labels.get("version", "")
            if sample.labels.get("model") != model or not version.isdigit():
                continue
            if sample.name == "headrace_requests_total":
                (answered if sample.labels["status"] == "200" else failed)[int(version)] += int(sample.value)
            elif sample.name == "headrace_request_ms_bucket":
                latency[int(version)][float(sample.labels["le"])] = sample.value
    return {v: Traffic(answered[v], failed[v], latency[v]) for v in {*answered, *failed, *latency}}
