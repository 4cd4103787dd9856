"""Ray Serve's own HAProxy configuration, corrected, and checked by HAProxy itself; HAProxies that die and take over, without Ray."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.ports import is_free
from infra.settings import ROOT
from serving.deployment.haproxy import Ingress, IngressError, read, running
from serving.deployment.stand_in import StandIn

pytestmark = pytest.mark.integration

FOLDER, PORT = Path("/where/it/is"), 51_000
_WRITE = f"""
import json
from ray.serve._private import haproxy
from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

def server(name, number):
    return ServerConfig(name=name, host="127.0.0.1", port=number)

def written(known):
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port={PORT}), stats_port={PORT + 1}, metrics_port={PORT + 2}, is_head=True,
        socket_path="{FOLDER}/a", server_state_base="{FOLDER}", server_state_file="{FOLDER}/state", metrics_enabled=False,
        maxconn=100, nbthread=1)
    import tempfile, os
    with tempfile.TemporaryDirectory() as folder:
        api = HAProxyApi(cfg=config, config_file_path=folder + "/cfg")
        if known:
            api.set_backend_configs({{"http-headrace": haproxy.BackendConfig(
                name="http-headrace", path_prefix="/", servers=[server("r0", {PORT + 3}), server("r1", {PORT + 4})], app_name="headrace",
                fallback_server=server("slow", 9))}})
        api._generate_config_file_internal()
        with open(folder + "/cfg") as file:
            return file.read()

print(json.dumps([written(False), written(True)]))
"""


@pytest.fixture(scope="module")
def templates() -> list[str]:
    """What Ray Serve writes before and after it knows replicas; in a process of its own, for Ray is not imported into the tests'."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _WRITE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Replica(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection each: what is closed answers nobody any more

    def do_GET(self) -> None:
        if self.path == "/headers":
            text = json.dumps([(name.lower(), value) for name, value in self.headers.items()]).encode()
        else:
            text = str(self.server.server_port).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class Serve:
    """As Ray Serve writes its configuration and starts HAProxy, with replicas that answer with their port."""

    def __init__(self, folder: Path, templates: list[str]) -> None:
        self.folder, self.templates = folder, templates
        # three in a row, and none that the system gives to whoever asks for any port
        free = (n for n in random.sample(range(20_000, 29_990), 5_000) if all(is_free(n + i) for i in range(3)))
        self.port = next(free)
        Ingress(str(folder), "127.0.0.1", "http-headrace", 4, True).write()
        self.ingress = read(folder)
        self.replicas = [ThreadingHTTPServer(("127.0.0.1", 0), _Replica) for _ in range(2)]
        for one in self.replicas:
            threading.Thread(target=one.serve_forever, daemon=True).start()
        self.started: list[subprocess.Popen[bytes]] = []

    def written(self, known: bool) -> Path:
        """The configuration as Ray Serve writes it, with or without knowing the replicas."""
        path = self.folder / "haproxy.cfg"
        text = self.templates[known].replace(str(FOLDER), str(self.folder))
        numbers = (self.port, self.port + 1, self.port + 2, *(one.server_port for one in self.replicas))
        for i, number in enumerate(numbers):
            text = text.replace(str(PORT + i), str(number))
        path.write_text(text)
        return path

    def start(self, known: bool, *more: str) -> subprocess.Popen[bytes]:
        argv = [str(self.ingress.launcher), "-db", "-dR", "-f", str(self.written(known)), *more]
        process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL)
        self.started.append(process)
        _until(lambda: (now := running(self.ingress)) is not None and now[0] == process.pid)
        _until(self.answers)
        return process

    def get(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/somewhere", timeout=5)

    def raw(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            answer = HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read()

    def answers(self) -> bool:
        try:
            self.get()
        except httpx.TransportError:
            return False
        return True

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        for one in self.replicas:
            one.shutdown()


def _until(done: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def serve(tmp_path: Path, templates: list[str]) -> Iterator[Serve]:
    made = Serve(tmp_path, templates)
    yield made
    made.close()


@pytest.mark.parametrize("known", [False, True])
def test_the_corrected_configuration_is_one_and_stays_on_loopback(serve: Serve, known: bool) -> None:
    path = serve.written(known)
    text = serve.ingress.corrected(path.read_text())
    assert set(re.findall(r"(?m)^ *bind (\S+):\d+", text)) == {"127.0.0.1"}
    assert " 404 " not in text
    assert "3600" not in text
    assert serve.ingress.corrected(text) == text
    path.write_text(text)
    done = subprocess.run([serve.ingress.binary, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("spare", [False, True])
def test_serve_s_slow_proxy_is_out_and_all_but_one_replica_are_spare(serve: Serve, spare: bool) -> None:
    own = Ingress(str(serve.folder), "127.0.0.1", "http-headrace", 4, spare)
    text = own.corrected(serve.written(True).read_text())
    servers = re.findall(r"(?m)^ *server (r\d|slow) .*?(backup)?$", text)
    assert servers == [("r0", ""), ("r1", "backup" if spare else "")] * 2  # for bodies of any size, and for large ones


@pytest.mark.parametrize("line", ["defaults", "frontend http_frontend", "http-request return status 404", "    use_backend http-headrace "])
def test_a_configuration_that_is_not_known_is_refused_by_the_line(serve: Serve, line: str) -> None:
    with pytest.raises(IngressError, match="this version of Ray"):
        serve.ingress.corrected(serve.written(True).read_text().replace(line, "something else"))


def test_before_replicas_are_known_and_when_none_is_up_the_answer_says_when_to_come_back(serve: Serve) -> None:
    serve.start(False)
    before = serve.get()
    serve.start(True)
    for one in serve.replicas:
        one.shutdown()
        one.server_close()
    _until(lambda: serve.get().status_code != 200)
    for answer in (before, serve.get()):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:headrace:problem:unavailable"


@pytest.mark.parametrize(
    "header",
    [
        b"X-Request-Id: \xff",
        b"X-Request-Id:",
        b"X-Request-Id: a\r\nX-Request-Id: \xff",
        b"X-Request-Id: \xff\r\nX-Request-Id: a",
        b"X-Request-Id: " + b"x" * 300,
        b"X-Request-Timeout-Seconds: 0.0001",
        b"X-Session-Id: \xff",
        b"serve_multiplexed_model_id: \xff",
        b"Serve-Multiplexed-Model-Id: a",
    ],
)
def test_what_serve_would_read_of_a_request_s_head_does_not_reach_it(serve: Serve, header: bytes) -> None:
    """It decodes such headers before anything of ours is asked: some bytes end in a 500, a tiny timeout in a plain 408."""
    serve.start(True)
    status, body = serve.raw(b"GET /headers HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
    assert status == 200
    assert header.partition(b":")[0].decode().lower() not in dict(json.loads(body))


def test_a_request_s_own_id_goes_through(serve: Serve) -> None:
    serve.start(True)
    _, body = serve.raw(b"GET /headers HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: 8f-3/a\r\n\r\n")
    assert dict(json.loads(body))["x-request-id"] == "8f-3/a"


@pytest.mark.parametrize(
    ("line", "status"), [(b"OPTIONS *", 400), (b"GET somewhere", 400), (b"GET ?", 400), (b"BREW /pot", 405), (b"A" * 3000 + b" /", 405)]
)
def test_what_no_replica_could_answer_is_no_fault_of_the_replicas(serve: Serve, line: bytes, status: int) -> None:
    serve.start(True)
    got, body = serve.raw(line + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (got, json.loads(body)["status"]) == (status, status)


def test_a_spare_is_asked_while_the_first_is_down_and_only_then(serve: Serve) -> None:
    first, spare = (str(one.server_port) for one in serve.replicas)
    serve.start(True)
    assert {serve.get().text for _ in range(20)} == {first}
    serve.replicas[0].shutdown()
    serve.replicas[0].server_close()
    answers = [serve.get() for _ in range(20)]
    assert {a.status_code for a in answers} == {200}
    assert {a.text for a in answers} == {spare}


def test_another_stands_in_for_one_that_died_until_serve_s_own_takes_over(serve: Serve) -> None:
    """Serve's next one knows no replicas at first: it goes by the last configuration that did."""
    process = serve.start(True)
    with StandIn(serve.ingress, serve.port):
        for _ in range(2):  # also one that stands in may die
            now = running(serve.ingress)
            assert now is not None
            psutil.Process(now[0]).kill()
            began = time.monotonic()
            process.wait()
            _until(serve.answers, 3.0)
            assert time.monotonic() - began < 3.0
            assert serve.get().status_code == 200
        stood_in = running(serve.ingress)
        assert stood_in is not None
        failed = []
        asking = threading.Event()

        def ask() -> None:
            while not asking.is_set():
                if not serve.answers() or serve.get().status_code != 200:
                    failed.append(time.monotonic())

        thread = threading.Thread(target=ask)
        thread.start()
        fresh = serve.start(False)
        _until(lambda: not psutil.pid_exists(stood_in[0]) or psutil.Process(stood_in[0]).status() == psutil.STATUS_ZOMBIE)
        asking.set()
        thread.join()
        assert not failed
        assert running(serve.ingress) == (fresh.pid, str(serve.folder / "a"))
    assert fresh.poll() is None
    assert serve.get().status_code == 200


def test_the_launcher_leaves_other_calls_alone(serve: Serve) -> None:
    done = subprocess.run([str(serve.ingress.launcher), "-v"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("HAProxy version")
