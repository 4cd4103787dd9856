"""A third use case, of types: nasty values of every declared type, and functions that say exactly what they see.

Imported by tests only; `repo/` is the folder, `generate` fills its offline store.
"""

from tests.meters.generate import generate

__all__ = ["generate"]
