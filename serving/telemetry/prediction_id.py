"""Ids of predictions: nobody can guess one that was answered, and none is taken for answered that was not.

An id is a UUID version 7 (RFC 9562) and sorts by time. Of its 74 free bits, 44 come from the operating system's generator; the other 30
are a keyed hash (BLAKE2b) of the rest and of the model's name. So a truth can be checked against its id without looking anything up:
whether the prediction is still on its way to the log, in it, or long archived. The key lies in the state folder, which replicas share.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.records.prediction import is_prediction_id

if TYPE_CHECKING:
    from infra.settings import Settings

_TAG = 30
NONCE = (1 << 44) - 1
_VARIANT, _LOW = 1 << 63, (1 << 62) - 1
_DRAWN = 512
"""Random parts drawn at a time."""
_FILE = "prediction-ids.key"
_KEY_BYTES = 32

log = logging.getLogger(__name__)


class PredictionIds:
    """
    Args:
        key: secret, 32 bytes.
        since_ms: when it was made, milliseconds since the epoch: ids from before it carry no proof.
    """

    def __init__(self, key: bytes, since_ms: int = 0) -> None:
        self._keyed, self.since_ms = blake2b(key=key, digest_size=4), since_ms  # copied for each id: the key is taken in once

    @classmethod
    def of(cls, settings: Settings) -> PredictionIds:
        """The ids of this checkout."""
        return _of(settings.state)

    def make(self, model: str, wall_us: int, count: int = 1) -> list[str]:
        """Ids of predictions that a model answers at a moment.

        Args:
            wall_us: microseconds since the epoch.
        """
        ms = wall_us // 1000
        return [self.made_of(model, ms, _nonce()) for _ in range(count)]

    def made_of(self, model: str, ms: int, nonce: int) -> str:
        """The id of a moment and of `NONCE` bits, which no other prediction of that moment may have."""
        free = nonce << _TAG | self._tag(_head(ms), nonce, model.encode())
        last = f"{free >> 62 << 64 | _VARIANT | free & _LOW:019x}"  # 12 bits, then the variant and 62
        return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{last[:3]}-{last[3:7]}-{last[7:]}"

    def answered(self, model: str, number: str) -> bool:
        """Whether `make` has given this id to a prediction of this model."""
        if not is_prediction_id(number):
            return False
        bits = int(number.replace("-", ""), 16)
        free = (bits >> 64 & 0xFFF) << 62 | bits & (1 << 62) - 1
        wanted = self._tag(_head(bits >> 80), free >> _TAG, model.encode())
        return compare_digest(wanted.to_bytes(4), (free & (1 << _TAG) - 1).to_bytes(4))

    def _tag(self, head: bytes, nonce: int, name: bytes) -> int:
        keyed = self._keyed.copy()
        keyed.update(head + nonce.to_bytes(6) + name)
        return int.from_bytes(keyed.digest()) >> 2


_pool: list[int] = []
os.register_at_fork(after_in_child=_pool.clear)  # two processes must not give the same


def _nonce() -> int:
    """44 random bits of the operating system's, which is asked for many at a time; each is given once."""
    while True:
        try:
            return _pool.pop()
        except IndexError:
            _pool.extend(number & NONCE for number in memoryview(os.urandom(8 * _DRAWN)).cast("Q"))


def _head(ms: int) -> bytes:
    return ms.to_bytes(6)


@lru_cache(maxsize=8)
def _of(state: Path) -> PredictionIds:
    path = state / _FILE
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError):
            try:
                return PredictionIds(*read_key(path))
            except ValueError:
                log.error("%s is no key of prediction ids; it is put aside, and truths of predictions before now need the log", path)
                path.replace(path.with_suffix(".broken"))
        _write(path)
    raise RuntimeError(f"{path} cannot be read as it was written: is the disk full?")


def read_key(path: Path) -> tuple[bytes, int]:
    """The key of a checkout's ids, and since when there is one (milliseconds since the epoch).

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file holds something else.
    """
    text, since = path.read_text().split()
    key = bytes.fromhex(text)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a key has {_KEY_BYTES} bytes, this one {len(key)}")
    return key, int(since)


def _write(path: Path) -> None:
    """A new key, whole or not at all; of two replicas that begin at once the first is first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{secrets.token_hex(_KEY_BYTES)} {time.time_ns() // 1_000_000}\n")
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)
    partial.unlink()
