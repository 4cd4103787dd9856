"""A real Kafka broker for tests: one node, without ZooKeeper (KRaft), its jars from Maven.

Face: broker.
Imported by: tests of event sources and of scoring by queue.
"""
