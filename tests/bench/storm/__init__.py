"""A storm: the whole platform under load and hostile input while everything of it is killed, stopped and slowed in turn.

`run` is the benchmark; `tests/integration/test_storm.py` is a short one. What was sent and answered is in the ledger; what is right is judged afterwards.
"""

from tests.bench.storm.storm import Course, Plan, weather
from tests.bench.storm.verdict import Verdict

__all__ = ["Course", "Plan", "Verdict", "weather"]
