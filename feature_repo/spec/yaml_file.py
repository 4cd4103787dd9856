"""A YAML file of a use case, read into its schema, or refused with file and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Schema = TypeVar("Schema", bound=BaseModel)


class UseCaseError(ValueError):
    """A use case folder says something that cannot be; the message names file and field."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Loader(yaml.SafeLoader):
    """YAML 1.2's idea of a boolean: `on` and `no` are words, `true` and `false` are not."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), Loader)
    except FileNotFoundError:
        raise UseCaseError(f"{path} does not exist") from None
    except OSError as error:
        raise UseCaseError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date of 30 February, or no UTF-8
        raise UseCaseError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise UseCaseError(f"{path} is nested too deep") from None


def parse_yaml(schema: type[Schema], path: Path) -> Schema:
    try:
        return schema.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise UseCaseError(f"{path}: {lines}") from None
