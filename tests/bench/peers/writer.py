"""A single-process vectorised writer: Parquet, latest row per key, redis-py pipelines of HSET in Feast's layout: `writer.py TABLE FEATURES URL`."""

import json
import struct
import sys
import time

import mmh3
import pandas as pd
import redis

table, features, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
names = [f"f{i}" for i in range(features)]
fields = [struct.pack("<I", mmh3.hash(f"wide:{n}", signed=False)) for n in names]
client = redis.Redis.from_url(url)
print("RESULT{}", flush=True)
for _ in sys.stdin:
    began = time.monotonic()
    frame = pd.read_parquet(table, columns=["user_id", "event_timestamp", "created_timestamp", *names])
    frame = frame.sort_values(["event_timestamp", "created_timestamp"]).drop_duplicates("user_id", keep="last")
    ready = time.monotonic()
    prefix = struct.pack("<III", 1, 2, 7) + b"user_id" + struct.pack("<II", 4, 8)
    seconds = (frame["event_timestamp"].astype("int64") // (10**6 if "us" in str(frame["event_timestamp"].dtype) else 10**9)).tolist()
    rows = frame[names].to_numpy()
    pack = struct.Struct("<cd").pack
    pipe = client.pipeline(transaction=False)
    for i, (key, at) in enumerate(zip(frame["user_id"].tolist(), seconds, strict=True)):
        mapping = {f: pack(b"\x29", v) for f, v in zip(fields, rows[i].tolist(), strict=True)}
        mapping[b"_ts:wide"] = b"\x08" + at.to_bytes(5, "little")
        pipe.hset(prefix + struct.pack("<q", key) + b"writer", mapping=mapping)
        if i % 1000 == 999:
            pipe.execute()
    pipe.execute()
    ended = time.monotonic()
    print("RESULT" + json.dumps({"seconds": ended - began, "write": ended - ready, "keys": len(frame)}), flush=True)
