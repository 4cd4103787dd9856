"""The shop's application, one for every test of what calls do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.shop_server import Server


@pytest.fixture
def server(tmp_path: Path, redis_url: str) -> Server:
    server = Server(tmp_path, redis_url)
    server.version()
    return server
