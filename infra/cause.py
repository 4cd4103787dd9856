"""The true cause of an error in one line: for the person who can mend it, without a stack trace, and never a guess."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

_CLASS = re.compile(r"^\[[A-Z0-9_.]+\] ")
_STATE = re.compile(r"\s*SQLSTATE: \w+")
_LOST_TASK = re.compile(
    r"^Job aborted due to stage failure: .*?: Lost task \S+ in stage \S+ \(TID \d+\) \([^)]*\): (?:[\w$]+\.)+[\w$]+: ", re.S
)
_CAUSED = re.compile(r"^Caused by: (?:[\w$]+\.)*[\w$]+: (.+)", re.M)
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Invalid|Interrupt|Exit|Failure)\b.*")


def cause_of(error: BaseException, folder: Path | None = None) -> str:
    """What went wrong, where, in one line.

    Args:
        error: as it was caught; what it was raised from is looked at too.
        folder: the use case. A fault in one of its own files is said with file, line and function.
    """
    if folder is not None and (line := line_of(error, folder)):
        return line
    if type(error).__module__.startswith(("pyspark", "py4j")):
        return _spark(error)
    said = " ".join(str(error).split())
    if isinstance(error, KeyError):
        said = f"there is no {said}"
    module = type(error).__module__.split(".")[0]
    name = type(error).__name__ if module == "builtins" else f"{module}.{type(error).__name__}"
    return f"{name}: {said} ({_place(error)})" if said else f"{name} ({_place(error)})"


def line_of(error: BaseException, folder: Path) -> str | None:
    """`file, line 12, in price: KeyError: 'x'` for the innermost line of the folder's own that led to the error; None: no such line did.

    A syntax error in one of its files is the file's own line.
    """
    whole = folder.resolve()
    for one in _chain(error):
        if isinstance(one, SyntaxError) and one.filename and _inside(one.filename, whole):
            return f"{one.filename}, line {one.lineno}: {type(one).__name__}: {one.msg}"
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            if _inside(frame.filename, whole):
                where = "" if frame.name == "<module>" else f", in {frame.name}"
                return f"{frame.filename}, line {frame.lineno}{where}: {type(one).__name__}: {' '.join(str(one).split())}"
    return None


def _inside(filename: str, folder: Path) -> bool:
    return Path(filename).is_absolute() and Path(filename).resolve().is_relative_to(folder)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it was raised from: first the innermost."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    yield from reversed(found)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "place unknown"


def _spark(error: BaseException) -> str:
    """Spark's message without its error class, JSON, plan and Java stack; of a Python worker's failure, the line that was raised there."""
    java = getattr(error, "java_exception", None)
    said = str(java.getMessage() if java is not None else getattr(error, "getMessage", lambda: None)() or error)
    if "Traceback (most recent call last)" in said:
        raised = [line.strip() for line in said.splitlines() if _RAISED.match(line.strip())]
        if raised:
            return raised[-1]
    below = _CAUSED.findall(str(error)) if "[FAILED_READ_FILE" in said else []
    return f"{message(said).rstrip('.')}: {below[-1].strip()}" if below else message(said)


def message(said: str) -> str:
    """The sentence in a message of Spark's: no error class, no plan, no stack."""
    first = said.split("\nJVM stacktrace")[0].split(";\n'")[0].split("\n\tat ")[0]
    first = _LOST_TASK.sub("", first.strip()).split(" Consider setting 'spark.")[0]
    return " ".join(_STATE.sub("", _CLASS.sub("", first)).split())
