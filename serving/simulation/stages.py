"""A long run, told stage by stage: what each did, how long it took, and which of them failed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from infra.cli import interrupted

if TYPE_CHECKING:
    from rich.console import Console


class StageFailed(RuntimeError):
    """A stage ended without having done its job."""


class Course:
    """
    Attributes:
        stages: `name`, `seconds`, `detail`, `ok` of each that has ended.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stages: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def stage(self, name: str, progress: bool = True) -> Iterator[Callable[[str], None]]:
        """One stage; call what it gives with a sentence on what was done.

        Args:
            progress: show that it is under way; not where the stage shows its own.

        Raises:
            StageFailed: for any error of the kinds our commands raise.
        """
        began, said = time.monotonic(), ""

        def detail(text: str) -> None:
            nonlocal said
            said = text

        with contextlib.ExitStack() as stack:
            if progress:
                stack.enter_context(self.console.status(name))
            try:
                yield detail
            except (ValueError, RuntimeError, OSError) as error:
                if interrupted.is_set():
                    raise KeyboardInterrupt from error
                self._ended(name, began, f"{type(error).__name__}: {error}", False)
                raise StageFailed(name) from error
        self._ended(name, began, said, True)

    def _ended(self, name: str, began: float, detail: str, ok: bool) -> None:
        seconds = time.monotonic() - began
        self.stages.append({"name": name, "seconds": seconds, "detail": detail, "ok": ok})
        mark = "[green]ok[/green]" if ok else "[red]!![/red]"
        self.console.print(
            f"{mark} {name:<14} {seconds:6.1f} s  {detail}", soft_wrap=not self.console.is_terminal
        )  # a file has whole lines
