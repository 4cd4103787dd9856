"""The cause that is printed is the true one, in one line, whatever raised it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, PythonException

from infra.cause import cause_of, line_of, message
from infra.settings import ROOT

WORKER = """
  An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "/x/streaming/join/on_spark.py", line 9, in batches
    fails()
pyarrow.lib.ArrowInvalid: Integer value 3000000000 out of bounds for int32
"""


def _raised(act: object) -> BaseException:
    try:
        act()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def _unknown_column() -> None:
    raise AnalysisException(
        "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `prize` cannot be resolved. SQLSTATE: 42703; line 1 pos 7;\n'Project ['prize]\n"
    )


def _in_a_worker() -> None:
    raise PythonException(WORKER)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: {}["speed"], "KeyError: there is no 'speed'"),
        (lambda: pa.array(["x"]).cast(pa.int64()), "ArrowInvalid: Failed to parse string"),
        (_unknown_column, "A column with name `prize` cannot be resolved."),
        (_in_a_worker, "pyarrow.lib.ArrowInvalid: Integer value 3000000000 out of bounds for int32"),
        (lambda: (_ for _ in ()).throw(Py4JError("An error occurred while calling o1.load")), "An error occurred while calling o1.load"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero (test_cause.py:"),
    ],
)
def test_a_librarys_error_is_one_line_that_names_the_true_cause(act: object, says: str) -> None:
    said = cause_of(_raised(act))
    assert says in said
    assert "\n" not in said
    assert "SQLSTATE" not in said
    assert "Traceback" not in said


@given(st.text(max_size=300), st.sampled_from([ValueError, KeyError, RuntimeError, pa.ArrowInvalid, AnalysisException, OSError]))
def test_whatever_a_message_holds_it_is_one_line(text: str, kind: type[Exception]) -> None:
    assert len(cause_of(kind(text)).splitlines()) <= 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_fault_in_the_users_own_function_is_said_with_file_and_line(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "definitions.py"
    path.write_text("def price(inputs):\n    return inputs['amountt']\n")
    names: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), names)

    def call() -> None:
        try:
            names["price"]({"amount": 1})  # type: ignore[operator]
        except KeyError as error:
            if wrapped:
                raise ValueError("Feast could not infer the features") from error
            raise

    error = _raised(call)
    assert line_of(error, tmp_path) == f"{path}, line 2, in price: KeyError: 'amountt'"
    assert cause_of(error, tmp_path) == line_of(error, tmp_path)
    assert line_of(error, tmp_path / "elsewhere") is None


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "stray.py"
    error = _raised(lambda: compile("x = 1\nif x:\n", str(path), "exec"))
    assert str(line_of(error, tmp_path)).startswith(f"{path}, line 2: ")


FRONT = """
import sys, typer, headrace
@headrace.app.command()
def fail(what: str):
    import pyarrow as pa
    if what == "arrow": pa.array(["x"]).cast(pa.int64())
    if what == "key": {}["speed"]
    if what == "ours": raise headrace.UseCaseForTest("a sentence of ours")
    if what == "redis":
        import redis
        redis.Redis(port=1, retry=None).ping()
class UseCaseForTest(ValueError): pass
UseCaseForTest.__module__ = "feature_repo.spec.use_case"
headrace.UseCaseForTest = UseCaseForTest
sys.argv = ["headrace", "fail", sys.argv[1]]
headrace.run_app(headrace.app)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("what", "says", "kept"),
    [
        ("arrow", "Failed to parse string", True),
        ("key", "there is no 'speed'", True),
        ("redis", "Connection refused", True),
        ("ours", "UseCaseForTest: a sentence of ours", False),
    ],
)
def test_no_command_ends_in_a_traceback_and_the_log_has_the_whole_story(tmp_path: Path, what: str, says: str, kept: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRONT, what],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HEADRACE_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    log = tmp_path / "log" / "errors.log"
    assert log.is_file() == kept
    if kept:
        assert str(log) in done.stderr
        assert "Traceback" in log.read_text()


def test_of_a_lost_task_its_cause_is_said() -> None:
    said = (
        "Job aborted due to stage failure: Task 0 in stage 9.0 failed 1 times, most recent failure: Lost task 0.0 in stage 9.0 (TID 9) "
        "(localhost executor driver): org.apache.spark.SparkException: Python worker exited unexpectedly (crashed). Consider setting "
        "'spark.sql.execution.pyspark.udf.faulthandler.enabled' or 'spark.python.worker.faulthandler.enabled' configuration to 'true'"
        " for the better Python traceback.\n\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator\n"
    )
    assert message(said) == "Python worker exited unexpectedly (crashed)."
