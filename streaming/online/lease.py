"""Who holds a view: one writer that replaces it as a whole at a time, by a lease in Redis that runs out after a kill."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from feature_repo.records.redis_keys import lease_key

if TYPE_CHECKING:
    import redis

    from streaming.schema.feature_view import View

LEASE_S = 30


class HeldError(RuntimeError):
    """Another backfill holds the view; says which. Nothing has been changed."""


def _me() -> str:
    import psutil

    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}/{uuid.uuid4().hex[:8]}"


def _gone(holder: str) -> bool:
    """Whether a holder on this machine has died: nobody has to wait for its lease to run out."""
    import psutil

    host, pid, created, *_ = holder.split("/")
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > 0.1
    except (psutil.NoSuchProcess, OverflowError):
        return True


@contextlib.contextmanager
def hold(client: redis.Redis, view: View) -> Iterator[None]:
    """Hold a view: one backfill at a time. The lease is renewed while the block runs and runs out by itself after a kill.

    Raises:
        HeldError: another one holds it, or something that is no backfill lies in its place.
    """
    key, me = lease_key(view.project, view.name), _me()
    if not client.set(key, me, nx=True, ex=LEASE_S):
        found: Any = client.get(key)
        holder = (found or b"").decode(errors="replace")
        try:
            held = found is not None and not _gone(holder)
        except ValueError:
            raise HeldError(f"what lies in Redis under {key} is no backfill's ({holder[:60]!r}): remove it") from None
        if held:
            host, pid, *_ = holder.split("/")
            raise HeldError(
                f"feature view {view.name!r} is being backfilled or removed by process {pid} on {host}; try again when it has ended"
            )
        client.set(key, me, ex=LEASE_S)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_S / 3):
            with contextlib.suppress(Exception):  # Redis away for a moment: what it is renewed for fails by itself
                if client.get(key) == me.encode():
                    client.expire(key, LEASE_S)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):
            if client.get(key) == me.encode():
                client.delete(key)
