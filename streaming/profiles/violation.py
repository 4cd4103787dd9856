"""What a source did that it usually does not, or must not."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Violation:
    """
    Attributes:
        source: the table, as its views name it.
        kind: `silent`, `volume`, `late`, `keys`, `twice`, `nulls`, `one value`, `unit`, `level` or `expectation`.
        column: empty: the rows as a whole.
        since_us: from when on, microseconds since the epoch (UTC).
        text: a clause that names the figures.
        rows: a few that show it, as text.
        proof: whether it was declared that it must not be, or the source is dead. All else is unusual, and no more.
        hint: whether it speaks for a fault. A level that moves does not: the world moves levels.
        share: of the rows, how many more break a declaration than before. One row of thousands is at fault, and explains no drift.
    """

    source: str
    kind: str
    column: str
    since_us: int
    text: str
    rows: list[str] = field(default_factory=list)
    proof: bool = False
    hint: bool = True
    share: float = 1.0

    @property
    def says(self) -> str:
        """`proof`, `unusual`, or `moved`: told, and no sign of a fault."""
        return "proof" if self.proof else "unusual" if self.hint else "moved"
