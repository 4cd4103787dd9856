"""A spare reader of what a service prints: should the supervisor, who reads it, be killed, it writes the service's log in its place.

Without a reader the service would die of its next line, or stand still once the pipe is full. Nothing is read while the supervisor lives.
Only the standard library is imported until then: there is one such process beside each service.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import subprocess
import sys


def open_beside(supervisor: int, log: str, max_bytes: int, backups: int) -> None:
    """Start the reader of this process's own stdout; it ends with the last process that writes there.

    Args:
        supervisor: process id.
        log: the file that the supervisor writes, and its limits.
    """
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return
    end = os.open("/proc/self/fd/1", os.O_RDONLY)
    try:
        # without this folder on the path: a module in it has the name of the library that is used
        argv = [sys.executable, "-P", os.path.abspath(__file__), str(supervisor), log, str(max_bytes), str(backups)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}  # it is no process of the supervisor's
        nothing = subprocess.DEVNULL
        subprocess.Popen(argv, stdin=end, stdout=nothing, stderr=nothing, start_new_session=True, env=environment)
    finally:
        os.close(end)


def main(supervisor: int, log: str, max_bytes: int, backups: int) -> None:
    """Wait until the service has ended (its end of the pipe is closed), or read it once the supervisor has."""
    with contextlib.suppress(ProcessLookupError):
        _wait(os.pidfd_open(supervisor))
    from supervisor import loggers

    loggers.Handler.handleError = lambda self: None  # what a full disk does not take is lost, and the service goes on
    logger = loggers.getLogger()
    loggers.handle_file(logger, log, "%(message)s", rotating=True, maxbytes=max_bytes, backups=backups)
    while said := os.read(0, 65_536):
        logger.info(said)


def _wait(supervisor: int) -> None:
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    poll.register(0, 0)  # that nobody writes there any more, and nothing else
    if supervisor not in dict(poll.poll()):
        sys.exit()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
