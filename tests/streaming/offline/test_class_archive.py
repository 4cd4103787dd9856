"""The archive of Java's classes: made beside the stream, used where it fits, and nothing is left of one that is not done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.java import java_home
from infra.settings import ROOT, Settings
from streaming.offline import class_archive
from streaming.offline.class_training import Training

pytestmark = pytest.mark.integration


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "an environment"))
    (tmp_path / "an environment").mkdir()
    return Settings(state=tmp_path / "state", redis_url="")


def _family() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True)}


def _wait(what: object, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_it_is_made_once_and_java_takes_it(own: Settings, tmp_path: Path) -> None:
    target = class_archive.archive(java_home(own))
    assert class_archive.options(java_home(own)) == ""
    training = Training(own)
    training.start()
    _wait(target.is_file)
    training.stop()
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    again = Training(own)
    again.start()
    assert again._child is None, "there is one"
    again.stop()
    # Java says which classes come out of it
    said = class_archive.options(java_home(own)).replace("-Xlog:cds=off -Xlog:cds+dynamic=off", "-Xlog:class+load:file=loaded")
    script = "import sys; from infra.settings import load_settings; from streaming.offline.spark import session; session(load_settings(), quick=True).range(3).count()"
    code = f"import streaming.offline.class_archive as c; c.options = lambda _: {said!r}; {script}"
    environment = os.environ | {"HEADRACE_STATE": str(tmp_path / "other"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=300, capture_output=True)
    lines = (tmp_path / "loaded").read_text().splitlines()
    shared = sum("shared objects file (top)" in line for line in lines)
    assert shared > 3000, f"{shared} of {len(lines)}"


@pytest.mark.parametrize("how", ["stopped", "its parent killed"])
def test_one_that_is_not_done_leaves_nothing(own: Settings, how: str) -> None:
    folder = class_archive.archive(java_home(own)).parent
    before = _family()
    if how == "stopped":
        training = Training(own)
        training.start()
        _wait(lambda: any(folder.glob("training-*/log/spark.log")))
        training.stop()
        assert _family() == before
    else:
        code = (
            f"import sys, time; sys.prefix = {sys.prefix!r}\nfrom infra.settings import load_settings\nfrom streaming.offline.class_training import Training\n"
            "Training(load_settings()).start(); time.sleep(600)"
        )
        environment = os.environ | {"HEADRACE_STATE": str(own.state), "PYTHONPATH": str(ROOT)}
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
        _wait(lambda: any(folder.glob("training-*/log/spark.log")))
        (made,) = [p for p in psutil.Process(parent.pid).children() if "streaming.offline.class_training" in p.cmdline()]
        parent.kill()
        parent.wait()
        made.wait(60)
    _wait(lambda: not list(folder.iterdir()), 60)


def test_a_file_that_is_none_costs_nothing_but_time(own: Settings, tmp_path: Path) -> None:
    target = class_archive.archive(java_home(own))
    target.parent.mkdir()
    target.write_bytes(b"no archive" * 1000)
    said = class_archive.options(java_home(own))
    assert str(target) in said
    java = java_home(own) / "bin" / "java"
    done = subprocess.run(
        [java, *said.replace('"', "").split(" -X", 1)[0].split("\0"), "-version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
