"""The use case as one of the checks of `headrace doctor`."""

from __future__ import annotations

from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import UseCaseError
from infra.doctor import Finding
from infra.settings import Settings


def use_case(settings: Settings) -> Finding:
    """Whether the folder is a use case, and what it holds."""
    try:
        case = UseCase(settings.repo)
        found = f"{case.project}: {len(case.ingest.tables)} tables, models {', '.join(case.models) or 'none'}"
    except UseCaseError as error:
        return Finding("Use case", False, str(settings.repo), str(error))
    return Finding("Use case", True, found)
