"""Starts, kills and starts again one Kafka broker on loopback.

The jars are brought once by Maven's own client and kept in the user's cache, outside the checkout.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.java import java_home
from infra.settings import Settings

VERSION = "4.1.1"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>headrace</groupId><artifactId>broker</artifactId><version>1</version><dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
</dependency></dependencies></project>
"""
_FETCH_S = 240
_START_S = 90.0


class NoBrokerError(RuntimeError):
    """This machine cannot have a broker; says why."""


def jars() -> Path:
    """The folder of the broker's jars, brought by Maven where it is not there yet.

    Raises:
        NoBrokerError: there is no Maven, or it does not get them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    folder = cache / f"kafka-{VERSION}"
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise NoBrokerError("there is no Maven (mvn) to bring Kafka's jars")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        (Path(work) / "pom.xml").write_text(_POM)
        command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars", "-DincludeScope=runtime"]
        try:
            said = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_FETCH_S, check=False)
        except subprocess.TimeoutExpired:
            raise NoBrokerError(f"Maven did not bring Kafka {VERSION} within {_FETCH_S} s") from None
        if said.returncode:
            raise NoBrokerError(f"Maven brings no Kafka {VERSION}: {(said.stdout + said.stderr).strip()[-300:]}")
        if not folder.is_dir():
            (Path(work) / "jars").rename(folder)
    return folder


def _free_ports(n: int) -> list[int]:
    probes = [socket.socket() for _ in range(n)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Broker:
    """One node that is broker and controller; its log lies in `folder`.

    Raises:
        NoBrokerError: the jars cannot be had.
        RuntimeError: it does not start.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._jars, self._java, self.folder = jars(), java_home(settings) / "bin" / "java", folder
        self.port, controller = _free_ports(2)
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(folder / "log"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "num.network.threads": "1",
            "num.io.threads": "2",
            "log.cleaner.enable": "false",
            "log.retention.hours": "-1",  # records of tests are dated in other years
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self._run("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(self._config))
        self.start()

    def _command(self, main: str, *arguments: str) -> list[str]:
        small = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        return [str(self._java), *small, "-cp", f"{self._jars}/*", main, *arguments]

    def _run(self, main: str, *arguments: str) -> None:
        said = subprocess.run(self._command(main, *arguments), capture_output=True, text=True, timeout=120, check=False)
        if said.returncode:
            raise RuntimeError(f"{main}: {(said.stdout + said.stderr)[-2000:]}")

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(self._command("kafka.Kafka", str(self._config)), stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker does not start: {(self.folder / 'broker.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                pass
            return bool(AdminClient({"bootstrap.servers": self.address, "log_level": "0"}).list_topics(timeout=3).brokers)
        except (OSError, KafkaException):
            return False

    def kill(self) -> None:
        """As a machine that loses its power would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def make(self, topic: str, partitions: int = 1) -> None:
        """Make a topic, or give it more partitions."""
        from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

        admin = AdminClient({"bootstrap.servers": self.address})
        there = topic in admin.list_topics(timeout=10).topics
        made: Any = (
            admin.create_partitions([NewPartitions(topic, partitions)]) if there else admin.create_topics([NewTopic(topic, partitions, 1)])
        )
        for one in made.values():
            one.result(30)

    def put(self, topic: str, values: Sequence[bytes | None], partition: int = 0, **options: Any) -> None:
        """Produce values to a partition, in order, and wait until the broker has them."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address, "enable.idempotence": True, "linger.ms": 5})
        for value in values:
            producer.produce(topic, value, partition=partition, **options)
        left = producer.flush(30)
        assert not left, f"{left} records did not get to the broker"

    def read(self, topic: str) -> list[Any]:
        """Every committed record of a topic, partition by partition."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        options = {"bootstrap.servers": self.address, "group.id": "reader", "enable.auto.commit": False, "enable.partition.eof": True}
        reader, found = Consumer(options), []
        parts = reader.list_topics(topic, timeout=10).topics[topic].partitions
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in parts])
        left = len(parts)
        while left:
            record = reader.poll(10)
            assert record is not None, "the broker gives no end of a partition"
            if record.error():
                left -= 1
            else:
                found.append(record)
        reader.close()
        return sorted(found, key=lambda one: (one.partition(), one.offset()))
