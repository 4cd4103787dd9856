"""Redis commands packed in bulk: for hundreds of thousands of hashes redis-py's own packing costs more than Redis does.

A *bulk* is a RESP bulk string (`$<length>\\r\\n<bytes>\\r\\n`). Columns of bulks are joined row by row into commands and sent over a
connection of redis-py's own pool, so that passwords, TLS and database numbers are its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def commands(head: Sequence[bytes], columns: Sequence[Sequence[bytes]], fields: Sequence[bytes] = ()) -> list[bytes]:
    """One command per row.

    Args:
        head: arguments that are the same in every command (name first).
        columns: of bulks, the same length each: the arguments that differ; the last `len(fields)` of them are values of hash fields.
        fields: hash fields; each is put before its column.
    """
    fixed = b"*%d\r\n" % (len(head) + len(columns) + len(fields)) + b"".join(map(bulk, head))
    plain = len(columns) - len(fields)
    parts: list[Iterable[bytes]] = [*columns[:plain]]
    for field, column in zip(fields, columns[plain:], strict=True):
        before = bulk(field)
        parts.append([before + value for value in column])
    join = b"".join
    return [fixed + join(row) for row in zip(*parts, strict=True)]


def send(client: redis.Redis, packed: Sequence[bytes], chunk: int = 1000) -> list[Any]:
    """Send packed commands in pipelines of `chunk`; their replies in order.

    Raises:
        redis.RedisError: the first error among the replies of a pipeline, after which nothing more is sent.
    """
    import hiredis
    import redis

    if not packed:
        return []
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    replies: list[Any] = []
    try:
        # replies are read by the parser that redis-py uses, without its work per reply
        reader = hiredis.Reader(notEnoughData=_MORE)
        for i in range(0, len(packed), chunk):
            some = packed[i : i + chunk]
            connection.send_packed_command([b"".join(some)])
            got: list[Any] = []
            while len(got) < len(some):
                one = reader.gets()
                if one is not _MORE:
                    got.append(one)
                    continue
                data = connection._sock.recv(65536)
                if not data:
                    raise redis.ConnectionError("the connection was closed")
                reader.feed(data)
            for one in got:
                if isinstance(one, hiredis.ReplyError):
                    raise _error(str(one))
            replies += got
    except OSError as error:
        connection.disconnect()
        raise redis.ConnectionError(str(error)) from error
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
    return replies


_MORE = object()


def _error(text: str) -> Exception:
    import redis

    if text.startswith("MOVED "):
        return redis.exceptions.MovedError(text.removeprefix("MOVED "))
    return redis.ResponseError(text)
