"""Tests of serving.queue."""
