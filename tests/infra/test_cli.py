"""The front door, as a person meets it: in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.settings import ROOT

pytestmark = pytest.mark.integration


def _headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "headrace.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", **environment},
    )


def test_help_lists_the_commands_quickly() -> None:
    _headrace("--help")  # compiles
    began = time.monotonic()
    done = _headrace("--help")
    assert time.monotonic() - began < 5  # 0.7 s on an idle machine; heavy imports would take more than ten
    assert done.returncode == 0
    for command in ("demo", "doctor", "up", "down", "status", "test", "version"):
        assert command in done.stdout


@pytest.mark.parametrize(("typed", "meant"), [("statsu", "status"), ("dmeo", "demo"), ("doctr", "doctor")])
def test_a_mistyped_command_gets_a_suggestion(typed: str, meant: str) -> None:
    done = _headrace(typed)
    assert done.returncode == 2
    assert f"did you mean '{meant}'" in done.stderr


def test_an_error_of_ours_is_one_sentence_without_a_traceback(tmp_path: Path) -> None:
    done = _headrace("--repo", str(tmp_path), "--state", str(tmp_path / "s"), "up")
    assert done.returncode == 1
    assert "has no feature_store.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_printed_as_it_is_brackets_and_all(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]"
    folder.mkdir()
    done = _headrace("--repo", str(folder), "--state", str(tmp_path / "s"), "up")
    assert f"{folder} is not a use case" in done.stderr


@pytest.mark.parametrize("handler", ["", "signal.signal(signal.SIGINT, signal.default_int_handler)"], ids=["ours", "as of pyspark"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_end_stops_what_it_started(number: signal.Signals, handler: str) -> None:
    code = f"""
import signal, sys, time, headrace
@headrace.app.command()
def orchestrate():
    {handler}
    try:
        print("started", flush=True)
        time.sleep(60)
    finally:
        print("stopped what it started", flush=True)
sys.argv = ["headrace", "orchestrate"]
headrace.run_app(headrace.app)
"""
    # a shell may have told its background jobs to ignore these signals, and that is inherited
    defaults = {one: signal.signal(one, signal.SIG_DFL) for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    finally:
        for one, handler in defaults.items():
            signal.signal(one, handler)
    with command:
        assert command.stdout is not None
        assert command.stdout.readline() == "started\n"
        command.send_signal(number)
        assert command.stdout.read() == "stopped what it started\n"
        assert command.wait(60) == (130 if number == signal.SIGINT else 128 + number)
        assert command.stderr is not None
        assert command.stderr.read() == ("interrupted\n" if number == signal.SIGINT else "")


def test_ctrl_c_before_the_imports_are_done_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    # the interpreter's own handler, also where a shell has told its background jobs to ignore the signal
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        command = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "headrace.py"), "version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == "importing\n"
        command.send_signal(signal.SIGINT)
        assert command.stderr.read() == ""
        assert command.wait(60) == -signal.SIGINT


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_told_to_end_while_spark_starts_leaves_no_jvm(number: signal.Signals, tmp_path: Path) -> None:
    import psutil

    def jvms() -> list[psutil.Process]:
        return [
            p
            for p in psutil.process_iter(["cmdline"])
            if str(tmp_path) in " ".join(words := p.info["cmdline"] or []) and "pyspark-shell" in words
        ]

    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        command = subprocess.Popen([sys.executable, str(ROOT / "headrace.py"), "--state", str(tmp_path), "ingest"])
    finally:
        signal.signal(signal.SIGINT, before)
    with command:
        deadline = time.monotonic() + 120
        while not jvms() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert jvms()
        command.send_signal(number)
        assert command.wait(60) == 128 + number
    deadline = time.monotonic() + 30
    while jvms() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not jvms()


@pytest.mark.parametrize("asked", [["--version"], ["version"]])
def test_the_version_is_told_either_way(asked: list[str]) -> None:
    assert _headrace(*asked).stdout.startswith("headrace 0.")


@pytest.mark.parametrize("command", [[], ["backfill"]])
def test_help_comes_for_both_options_and_names_what_was_typed(command: list[str]) -> None:
    long, short = _headrace(*command, "--help"), _headrace(*command, "-h")
    assert (long.returncode, short.returncode) == (0, 0)
    assert long.stdout == short.stdout
    assert f"Usage: ./headrace {' '.join(command)}".rstrip() in long.stdout


def test_a_plain_error_is_not_named_after_its_class(tmp_path: Path) -> None:
    done = _headrace("--state", str(tmp_path), "check", "--training-set", "nothing.parquet")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no training set")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = _headrace("--repo", str(tmp_path), "--state", str(tmp_path / "s"), "up", HEADRACE_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_setting_that_cannot_be_is_one_sentence() -> None:
    done = _headrace("status", HEADRACE_REPLICAS="none")
    assert done.returncode == 1
    assert "replicas" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_doctor_ends_with_1_when_something_is_missing(tmp_path: Path) -> None:
    done = _headrace("--repo", str(tmp_path), "--state", str(tmp_path / "s"), "doctor")
    assert done.returncode == 1
    assert "fix:" in done.stdout


def test_down_with_nothing_running_says_so(tmp_path: Path) -> None:
    done = _headrace("--state", str(tmp_path), "down")
    assert (done.returncode, done.stdout.strip()) == (0, "nothing was running")


def test_test_hands_further_arguments_to_pytest() -> None:
    done = _headrace("test", "--fast", "--collect-only", "-q", "tests/infra/test_ports.py", "-k", "keeps")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_a_checkout_keeps_its_ports" in done.stdout
    assert "names_get" not in done.stdout


def _launcher(folder: Path, path: str, lock: str) -> Path:
    """A checkout of nothing but the launcher, a lock, and a `headrace.py` that prints its arguments."""
    (folder / "headrace").write_text((ROOT / "headrace").read_text())
    (folder / "headrace").chmod(0o755)
    (folder / "requirements.lock").write_text(lock)
    (folder / "headrace.py").write_text("import sys\nprint('front door', sys.argv[1:])\n")
    return folder / "headrace"


def _tools(folder: Path) -> str:
    import shutil

    folder.mkdir()
    for name in ("bash", "env", "cat", "cut", "sha256sum", "dirname", "readlink", "flock", "rm", "tr", "ln"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


def test_the_launcher_without_a_python_says_what_to_install(tmp_path: Path) -> None:
    path = _tools(tmp_path / "tools")
    launcher = _launcher(tmp_path, path, "")
    done = subprocess.run([launcher], env={"PATH": path}, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1
    assert "Python 3.11 to 3.14" in done.stderr
    assert "apt install" in done.stderr


def test_the_launcher_goes_straight_to_the_front_door_when_the_lock_is_installed(tmp_path: Path) -> None:
    import hashlib

    path = _tools(tmp_path / "tools")
    launcher = _launcher(tmp_path, path, "nothing\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / ".headrace-lock").write_text(hashlib.sha256(b"nothing\n").hexdigest())
    link = tmp_path / "elsewhere"
    link.symlink_to(launcher)
    done = subprocess.run([link, "status", "a b"], env={"PATH": path}, capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout.strip() == "front door ['status', 'a b']"
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["../models/x", "..", ""])
@pytest.mark.parametrize("command", [("promote", "1"), ("canary", "0"), ("shadow", "0"), ("rollback",)], ids=lambda c: c[0])
def test_a_path_is_no_name_of_a_model(tmp_path: Path, name: str, command: tuple[str, ...]) -> None:
    (tmp_path / "models" / "x").mkdir(parents=True)
    (tmp_path / "models" / "x" / "release.json").write_text('{"champion": 2, "previous": 1, "canary": 1, "share": 0.5, "shadow": 1}')
    done = _headrace("--state", str(tmp_path), command[0], name, *command[1:])
    assert done.returncode == 2
    assert "is no name of a model" in " ".join(done.stderr.replace("│", "").split())


@pytest.mark.parametrize("typed", ["../models/x", "0", "-1"])
@pytest.mark.parametrize("command", ["promote", "reproduce"])
def test_a_version_is_a_number(tmp_path: Path, command: str, typed: str) -> None:
    done = _headrace("--state", str(tmp_path), command, "m", "--", typed)
    assert done.returncode == 2
    assert "Invalid value for 'version'" in done.stderr


LONG = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from infra import cli as command_line
command_line.EVERY_S = 0.3
with command_line.console.status("[bold]fitting[/bold]") as status:
    time.sleep(1)
    status.update("fitting: 3/9 rounds")
    time.sleep(1)
time.sleep(1)
command_line.console.print("done")
"""


def test_what_takes_long_says_so_where_there_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "done\n", "what is read by programs holds results only"
    lines = done.stderr.splitlines()
    assert 4 <= len(lines) <= 7
    assert lines[0].startswith("fitting (0 s)")
    assert lines[-1].startswith("fitting: 3/9 rounds (")


def test_stream_with_nothing_applied_says_what_to_do(tmp_path: Path) -> None:
    done = _headrace("--state", str(tmp_path), "stream")
    try:
        assert done.returncode == 1
        assert "run `headrace apply` first" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        _headrace("--state", str(tmp_path), "down")
