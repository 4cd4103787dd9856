"""A registry that is followed: a process that has compiled the applied definitions learns of the next `apply`."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.spec.use_case import UseCase
from infra.cause import cause_of

EVERY_S = 1.0
"""How often a look is due."""
AGAIN = 2
"""How many more looks follow after a change of a registry on a server. Its revision is in whole seconds, and one second may hold two changes."""
log = logging.getLogger(__name__)


class Followed:
    """
    Args:
        case: whose registry is looked at.

    Attributes:
        case: the same, with its registry as it was read last.
    """

    def __init__(self, case: UseCase) -> None:
        self.case = case
        self._look_at, self._seen, self._told, self._more = 0.0, None, False, 0

    @property
    def due(self) -> bool:
        """Whether it is time for a look; costs nothing."""
        return time.monotonic() >= self._look_at

    def changed(self) -> bool:
        """Whether the registry was written since this was last true; blocks.

        The first time: whether there is one. A registry that is away or cannot be read has not changed: what was compiled goes on.
        """
        self._look_at = time.monotonic() + EVERY_S
        try:
            seen: Any = self.case.revision()
            if seen is None or (seen == self._seen and not self._more):
                return False
            if "store" in vars(self.case):  # what is open goes on reading a file that was deleted
                self.case = _reopened(self.case.folder)
        except Exception as error:  # whatever a file system, a database or Feast says: it is asked again
            if not self._told:
                log.error("the registry cannot be read, and what was applied before stands: %s", cause_of(error))
            self._told = True
            return False
        self._more = 0 if not isinstance(seen, datetime) else AGAIN if seen != self._seen else self._more - 1
        self._seen, self._told = seen, False
        return True

    @property
    def read(self) -> bool:
        """Whether there was a registry to read, at a look before."""
        return self._seen is not None

    def again(self) -> None:
        """Read the registry anew at the next look, written or not."""
        self._seen = None


def _reopened(folder: Path) -> UseCase:
    """The use case with a registry that was read."""
    case = UseCase(folder)
    case.store.list_feature_services()
    return case
