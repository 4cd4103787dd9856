"""`headrace alarm` as a person meets it: what is given as a word, what is refused, and what replaces what."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infra.settings import ROOT
from tests.training.retraining.world import World

pytestmark = pytest.mark.integration


def headrace(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environment = {**own, **world.settings.environment(), "COLUMNS": "80", "NO_COLOR": "1"}
    argv = [sys.executable, str(ROOT / "headrace.py"), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_word_needs_a_reason_and_an_alarm(world: World) -> None:
    world.serve()
    world.pilot().step()
    for option in ("--confirm", "--dismiss"):
        for blank in ("", "  "):
            done = headrace(world, "alarm", option, blank)
            assert done.returncode == 2, done.stdout
            assert f"{option} needs a reason in words" in " ".join(done.stderr.replace("│", " ").split())
    assert headrace(world, "alarm", "--confirm", "a", "--dismiss", "b").returncode == 2
    done = headrace(world, "alarm", "--confirm", "the vane is stuck")
    assert done.returncode == 1
    assert "nothing is noted" in done.stderr
    assert not (world.pilot().home / "answer").exists()


def test_a_word_waits_visibly_until_it_is_heard_and_a_second_replaces_it_aloud(world: World) -> None:
    world.serve()
    world.drift(retrain=False)
    world.pilot().step()
    done = headrace(world, "alarm", "--dismiss", "a storm")
    assert done.returncode == 0, done.stderr
    assert "replaces" not in done.stdout
    assert "no autopilot runs to hear it" in done.stdout
    for command in ("alarm", "why", "status"):
        said = headrace(world, command).stdout
        assert "given, not yet heard" in " ".join(said.split()), command
        assert "dismissed: a storm" in " ".join(said.split()), command
    assert "replaces: dismissed: a storm" in headrace(world, "alarm", "--confirm", "the vane is stuck").stdout
    world.serve()
    world.pilot().step()
    said = headrace(world, "alarm").stdout
    assert "a person has confirmed it: the vane is stuck" in said
    assert "not yet heard" not in said
    assert "replaces: confirmed: the vane is stuck" in headrace(world, "alarm", "--dismiss", "a storm after all").stdout
