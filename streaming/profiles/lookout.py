"""The regular look at the sources while the stream runs, by a process of little priority: what it reads is given back when it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from infra.settings import ROOT

if TYPE_CHECKING:
    from infra.settings import Settings

LOG = "sources.log"
PAST_DAYS = 120.0
"""So much of the tables is read: it says what is usual, and a year of a large table would need its memory."""


class Lookout:
    """Looks every `source_check_s` seconds, the first time after one of them; 0: never."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._settings.source_check_s:
            self._thread = threading.Thread(target=self._run, daemon=True, name="lookout")
            self._thread.start()

    def stop(self) -> None:
        """End it, and a look that is under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._settings.source_check_s):
            try:
                self._look()
            except OSError as error:  # no room for a log or a process: the stream goes on, and the next look tries again
                print(f"the sources were not looked at: {error}", file=sys.stderr, flush=True)

    def _look(self) -> None:
        self._settings.log_dir.mkdir(parents=True, exist_ok=True)
        with open(self._settings.log_dir / LOG, "wb") as log:
            argv = ["nice", "-n", "15", sys.executable, "-W", "ignore", "-m", "streaming.profiles.lookout"]
            child = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            while child.poll() is None:
                if self._stop.wait(0.2):
                    child.terminate()
                    child.wait()


def main() -> None:
    """Look once, and say what is odd."""
    from feature_repo.spec.use_case import UseCase
    from infra.settings import load_settings
    from streaming.profiles.latest import look_at_latest, publish
    from streaming.schema.compilation import usable

    own = load_settings()
    own.export()
    case = UseCase(own.repo)
    found = look_at_latest(case, list(usable(case.store)[0].values()), own, past_days=PAST_DAYS)
    if found.newest:
        publish(own, case.project, found)
    for one in found.looked.violations:
        print(f"{one.source}: {one.says}: {one.kind}: {one.text}", flush=True)


if __name__ == "__main__":
    main()
