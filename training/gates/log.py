"""The first shadow: yesterday's requests, as they were answered, scored by the challenger. Nobody waits for it."""

from __future__ import annotations

import numpy as np

from feature_repo.triggers.base import DAY_US
from training.data.column_moments import micros
from training.evaluation.rescoring import NotComparable
from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Log(Gate):
    """Every score is a probability. Where there are no requests that it can be asked, the live shadow asks it, before it answers anyone."""

    name = "log"

    def look(self, at: Challenge) -> list[Checked]:
        rows = at.archived_where(lambda _, role: role != "shadow")
        if not rows.num_rows:
            return self.found(True, "no answered request is archived: the live shadow will show it")
        moments = micros(rows, "event_timestamp")
        rows = rows.filter(moments >= moments.max() - DAY_US)
        try:
            mine = at.challenger.score(rows)
        except NotComparable as error:
            return self.found(True, f"{error}: the live shadow will show it")
        theirs = rows["score"].to_numpy()
        broken = int((~((mine >= 0) & (mine <= 1))).sum())
        moved = np.abs(mine - theirs).mean()
        text = f"{len(mine):,} requests of the last day: scores move by {moved:.4f} on average, {broken} are no probabilities"
        return self.found(broken == 0, text)
