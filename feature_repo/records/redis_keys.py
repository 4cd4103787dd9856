"""The names of our keys in Redis and of the tables that the platform keeps, every one once.

A cluster decides by what stands in braces, the project, on which server a key lies. So a project's bookkeeping lies on one server, but for
what grows with its entities: these, and the indexes of them, are spread over all.
"""

from __future__ import annotations


def view_key(project: str, view: str) -> str:
    """The Redis hash with what is known of a view's materialization: `seam_us`, `rows`, `entities`, `seconds`, `at`, `error`, ..."""
    return f"headrace:{{{project}}}:view:{view}"


def keys_key(project: str, view: str) -> str:
    """Name of the index of the entity keys that hold a view's fields (`streaming.online.entity_index`)."""
    return f"headrace:{{{project}}}:keys:{view}"


def journal_key(project: str, view: str) -> str:
    """The Redis hash of an unfinished backfill of a view (`streaming.backfill.checkpoint`)."""
    return f"headrace:{{{project}}}:backfill:{view}"


def lease_key(project: str, view: str) -> str:
    """The Redis string that says who is backfilling a view; it expires unless renewed."""
    return f"headrace:{{{project}}}:lease:{view}"


def events_key(project: str) -> str:
    """The Redis Stream of live events; each entry has `source` (a push source's name) and `data` (the row, JSON)."""
    return f"headrace:{{{project}}}:events"


def bridged_key(project: str) -> str:
    """The Redis hash of what `streaming.live.connectors` has put on the event stream: last line by file."""
    return f"headrace:{{{project}}}:bridged"


def applied_key(project: str) -> str:
    """The Redis hash of the live stream's progress: `id` of the last entry applied, `wall_us`, `events`, and per view `newest:<view>`."""
    return f"headrace:{{{project}}}:applied"


def kafka_key(project: str) -> str:
    """The Redis hash of what is read from Kafka: `cut`, the last cut's number, `at:<partition>`, the next offset, and `sources`."""
    return f"headrace:{{{project}}}:kafka"


def cuts_key(project: str) -> str:
    """The Redis Stream of cuts (`streaming.kafka.cuts`); each entry has `ranges`: by partition, offsets from and to (JSON)."""
    return f"headrace:{{{project}}}:cuts"


def applied_kafka_key(project: str) -> str:
    """The Redis hash of progress from Kafka: as `applied_key`, and `waiting`, `reached_ms` (time of the newest record applied), `looked_us`."""
    return f"headrace:{{{project}}}:applied-kafka"


def run_key(project: str, run: str) -> str:
    """The Redis hash of how far the tasks of one run of the stream are: by task `<stream id> <events>`, `newest:<view>`, `counted`."""
    return f"headrace:{{{project}}}:run:{run}"


def refused_key(project: str) -> str:
    """The Redis hash of refusals that wait until all tasks have seen the event: `<stream id> <view>` → source, data, why (MessagePack)."""
    return f"headrace:{{{project}}}:refused"


def rejected_key(project: str) -> str:
    """The Redis Stream of events that do not fit their source's schema: the entry as it came, plus `why`."""
    return f"headrace:{{{project}}}:rejected"


def rejected_rows_key(project: str, view: str) -> str:
    """The Redis hash of rows of a view's offline table that no backfill can store: what it says, and why, by a hash of both."""
    return f"headrace:{{{project}}}:rejected-rows:{view}"


def set_aside_key(project: str) -> str:
    """The Redis sorted set of `<stream id> <view>` of events that a view refused, by the id's milliseconds: rejected, or put back since."""
    return f"headrace:{{{project}}}:set-aside"


def clock_key(project: str) -> str:
    """The Redis string with the moment that a rehearsal has got to, microseconds (`streaming.clock`)."""
    return f"headrace:{{{project}}}:clock"


def queue_key(project: str, name: str) -> str:
    """A Redis Stream of requests, or of their answers (`headrace score-stream`); a request has one field `data`."""
    return f"headrace:{{{project}}}:queue:{name}"


def queues_key(project: str) -> str:
    """The Redis hash of how far queues were answered: by `<model>:<queue>`, the last request's stream id."""
    return f"headrace:{{{project}}}:queues"


def prediction_log_key(project: str) -> str:
    """The Redis Stream of predictions; each entry has one field `p`: a `Prediction` as JSON."""
    return f"headrace:{{{project}}}:predictions"


def labels_key(project: str, model: str) -> str:
    """The Redis hash of truths by prediction id; each value is a `Truths` as JSON."""
    return f"headrace:{{{project}}}:labels:{model}"


def label_log_key(project: str) -> str:
    """The Redis Stream of truths, in the order in which they were kept; each entry has one field `l`: a `Label` as JSON."""
    return f"headrace:{{{project}}}:label-log"


def predictions_table(model: str) -> str:
    """The offline table of a model's archived predictions."""
    return f"predictions_{model}"


def truths_table(model: str) -> str:
    """The offline table of the truths of a model's predictions."""
    return f"labels_{model}"


def quality_key(project: str, model: str) -> str:
    """The Redis string with the latest live quality (JSON)."""
    return f"headrace:{{{project}}}:quality:{model}"


def drift_key(project: str, model: str) -> str:
    """The Redis string with the watch's latest verdict (JSON)."""
    return f"headrace:{{{project}}}:drift:{model}"


def held_key(project: str, model: str) -> str:
    """The Redis string with what the learning loop holds back (JSON, `HeldList`)."""
    return f"headrace:{{{project}}}:held:{model}"


def sources_key(project: str) -> str:
    """The Redis string with what the sources did that they usually do not, or must not (JSON, `SourceReport`)."""
    return f"headrace:{{{project}}}:sources"


def equality_key(project: str, model: str) -> str:
    """The Redis hash of the equality check: `compared`, `unequal`, `last` (JSON, the latest differences)."""
    return f"headrace:{{{project}}}:equality:{model}"


def tallies_key(project: str) -> str:
    """The Redis hash of tallies by id of the replica's start; each value is a `Tally` as JSON."""
    return f"headrace:{{{project}}}:tallies"


def watch_key(project: str, model: str) -> str:
    """The Redis hash with the watch's place: `cursor:<version>` → stream id of its last verdict's newest entry, `skipped` → count."""
    return f"headrace:{{{project}}}:watch:{model}"
