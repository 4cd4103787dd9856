"""A second use case, small and of another field: will a rider find a bike at this dock? `repo/` is the folder, `generate` fills it.

Imported by tests only. It shares no name, key type or column with any use case in feature_repo/.
"""

from tests.bikes.generate import generate

__all__ = ["generate"]
