"""An S3 server of a test's own, on loopback: moto's, in a process. It answers one request at a time, as its puts are not atomic otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

_SERVER = """
import logging, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.port, flush=True)
server.serve_forever()
"""


@contextmanager
def s3(bucket: str = "lake") -> Iterator[str]:
    """A server with one empty bucket; the environment says where it is while the block runs. Gives the bucket's URL."""
    told = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in (*told, "AWS_ENDPOINT_URL")}
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
            os.environ.update(told, AWS_ENDPOINT_URL=endpoint)
            _create(endpoint, bucket)
            yield f"s3://{bucket}"
        finally:
            server.kill()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _create(endpoint: str, bucket: str) -> None:
    """The server asks for no signature, but for a header that looks like one."""
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}
    for attempt in range(100):
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", b"", headers, method="PUT"), timeout=10):
                return
        except OSError:
            if attempt == 99:
                raise
            time.sleep(0.1)
