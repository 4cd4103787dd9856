"""The pages of docs/reference/, made of the code itself, and the checks of the docs.

`./headrace docs --check` runs them: generated pages are as the code says, links lead somewhere, and what stands in backticks exists.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
SCHEMAS = ROOT / "docs" / "schemas"
HEAD = "<!-- Made by `./headrace docs --write` from the code: do not edit. -->\n\n"
ROOMS = ("infra", "feature_repo", "streaming", "training", "serving")


def commands() -> str:
    """Every command with its help and options."""
    import typer

    from headrace import app

    group: Any = typer.main.get_command(app)
    text = "# Commands\n\n`./headrace COMMAND --help` shows the same. Exit codes: 0 done, 1 something is wrong, 2 wrong usage,\n"
    text += "75 try again later, 130 interrupted; where a command has others, it says so.\n"
    for name, command in group.commands.items():
        text += f"\n## {name}\n{_plain(command.help or '')}\n"
        rows = [one for one in (_parameter(parameter) for parameter in command.params) if one]
        if rows:
            text += "\n| option | default | what |\n|---|---|---|\n" + "".join(rows)
    return text


def _parameter(parameter: Any) -> str:
    if getattr(parameter, "hidden", False) or parameter.name == "help":
        return ""
    argument = parameter.param_type_name == "argument"
    name = f"`{parameter.name.upper()}`" if argument else ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default() if callable(parameter.default) else parameter.default
    shown = "" if default in (None, "", False, [], ()) else f"`{default}`"
    required = "required" if parameter.required else shown
    return f"| {name} | {required} | {_plain(getattr(parameter, 'help', None) or '').replace(chr(10), ' ')} |\n"


def _plain(text: str) -> str:
    """Help without the terminal's markup."""
    lines = [
        line.rstrip() for line in inspect.cleandoc(re.sub(r"\[/?(?:bold|yellow|green|red|dim)\]", "", text)).replace("\f", "").split("\n")
    ]
    return "\n".join(lines).strip().replace("|", "\\|") if "|" in text else "\n".join(lines).strip()


def settings() -> str:
    """Every setting, as environment variable."""
    from infra.settings import Settings

    text = (
        "# Settings\n\nEvery setting is an environment variable. `./headrace doctor` shows those that are set, and names that are\nnone.\n"
    )
    text += "\n| variable | type | default | what |\n|---|---|---|---|\n"
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=False)
        shown = f"`{default}`" if not callable(field.default_factory) and default not in (None, "") else ""
        if name in ("repo", "state"):
            shown = {"repo": "the first in `feature_repo/`", "state": "`.headrace`"}[name]
        text += f"| `HEADRACE_{name.upper()}` | {_type(field.annotation)} | {shown} | {field.description or ''} |\n"
    return text


def _type(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation)).replace("pathlib.", "").replace("typing.", "").replace("|", "or")


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of `ingest.yaml` (`ingest`) or of `models/*.yaml` (`model`)."""
    from feature_repo.spec.use_case import Ingest, ModelSpec

    schemas: dict[str, Any] = {"ingest": Ingest, "model": ModelSpec}
    made = schemas[kind].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def fields_of(kind: str, title: str, where: str) -> str:
    """A schema as tables, one for each object in it."""
    schema = schema_of(kind)
    text = f"# {title}\n\nFor editors: put `# yaml-language-server: $schema=` and the path of\n"
    text += f"[`docs/schemas/{kind}.schema.json`](../schemas/{kind}.schema.json) into the first line of {where}.\n"
    for name, one in {title: schema, **schema.get("$defs", {})}.items():
        if "properties" not in one:
            continue
        text += f"\n## {name}\n" if name != title else "\n"
        if one.get("description"):
            text += inspect.cleandoc(one["description"]).split("\n\n")[0].replace("\n", " ") + "\n"
        text += "\n| field | type | default | what |\n|---|---|---|---|\n"
        for field, said in one["properties"].items():
            default = "required" if field in one.get("required", []) else f"`{json.dumps(said['default'])}`" if "default" in said else ""
            text += f"| `{field}` | {_shape(said)} | {default} | {said.get('description', '')} |\n"
    return text


def _shape(said: dict[str, Any]) -> str:
    if "$ref" in said:
        name = said["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in said:
        return " or ".join(_shape(one) for one in said["anyOf"])
    if "enum" in said or "const" in said:
        return ", ".join(f"`{one}`" for one in said.get("enum", [said.get("const")]))
    if said.get("type") == "array":
        return f"list of {_shape(said.get('items', {}))}"
    if said.get("type") == "object" and isinstance(said.get("additionalProperties"), dict):
        return f"mapping to {_shape(said['additionalProperties'])}"
    bounds = [
        f"{sign} {said[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in said
    ]
    return " ".join([str(said.get("type", "any")), *bounds])


@contextmanager
def _plane() -> Iterator[Any]:
    """A server that serves nothing: what it would say of itself. The environment is left as it was."""
    from infra.settings import Settings
    from serving.handlers.data_plane import DataPlane

    before = os.environ.copy()
    with tempfile.TemporaryDirectory(prefix="headrace-docs-") as folder:
        own = Settings(state=Path(folder), redis_url="redis://127.0.0.1:1/0")
        own.export()
        try:
            yield DataPlane(own)
        finally:
            os.environ.clear()
            os.environ.update(before)


def http() -> str:
    """Every route, from the OpenAPI document."""
    from serving.http.app import build_app

    text = "# HTTP\n\nA running server has the whole document, with each model's own fields, at `/openapi.json` and `/docs`.\n"
    text += "Errors are `application/problem+json` (RFC 9457). [Serving](../serving.md) explains the calls.\n"
    text += "\n| call | what | may answer |\n|---|---|---|\n"
    with _plane() as plane:
        paths = build_app(plane).openapi()["paths"]
    for path, calls in paths.items():
        for method, call in calls.items():
            text += f"| `{method.upper()} {path}` | {call.get('summary', '')} | {', '.join(sorted(call.get('responses', {})))} |\n"
    return text


def metrics() -> str:
    """Every metric with its type."""
    with _plane() as plane:
        said = plane.metrics.text().decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", said, re.MULTILINE))
    text = "# Metrics\n\n`GET /metrics` of a replica, in Prometheus' format.\n\n| metric | type | what |\n|---|---|---|\n"
    for name, what in re.findall(r"^# HELP (\S+) (.*)$", said, re.MULTILINE):
        if name.startswith("headrace_"):
            text += f"| `{name}` | {kinds.get(name, '')} | {what} |\n"
    return text


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "ingest": lambda: fields_of("ingest", "ingest.yaml", "yours"),
    "model": lambda: fields_of("model", "models/*.yaml", "yours"),
    "http": http,
    "metrics": metrics,
}


def made() -> dict[Path, str]:
    """Every generated file with its content."""
    found = {FOLDER / f"{name}.md": HEAD + page().rstrip() + "\n" for name, page in PAGES.items()}
    for kind in ("ingest", "model"):
        found[SCHEMAS / f"{kind}.schema.json"] = json.dumps(schema_of(kind), indent=1, sort_keys=True) + "\n"
    return found


def write() -> list[str]:
    """Write what has changed; the names of it."""
    changed = []
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(str(path.relative_to(ROOT)))
    return changed


def stale() -> list[str]:
    """Generated files that are not as the code says."""
    return [
        f"{path.relative_to(ROOT)} is not what the code says: run `./headrace docs --write`"
        for path, text in made().items()
        if not path.exists() or path.read_text() != text
    ]


def pages() -> list[Path]:
    """All that people read."""
    return [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))


def dead_links() -> list[str]:
    """Links to files or headings that are not there; those to the internet are not asked."""
    found = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            place, _, anchor = target.partition("#")
            path = (page.parent / place).resolve() if place else page
            if not path.exists():
                found.append(f"{page.relative_to(ROOT)}: {target} leads nowhere")
            elif anchor and path.suffix == ".md" and anchor not in set(_anchors(path.read_text())):
                found.append(f"{page.relative_to(ROOT)}: {target} names no heading")
    return found


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _anchors(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", _without_code(text), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).strip().replace(" ", "-")


def unknown_names() -> list[str]:
    """What stands in backticks in docs or docstrings as a module, file, command or setting of ours, and is none."""
    import typer

    from headrace import app
    from infra.settings import Settings

    known_commands = set(typer.main.get_command(app).commands) | {"help"}  # type: ignore[attr-defined]
    known_settings = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | ELSEWHERE
    found = []
    for where, text in _texts():
        for name in re.findall(r"`([^`\n]+)`", text):
            wrong = _wrong(name, known_commands, known_settings)
            if wrong:
                found.append(f"{where}: `{name}`: {wrong}")
    return found


ELSEWHERE = {
    "HEADRACE_FUZZ",
    "HEADRACE_DEBUG",
    "HEADRACE_REDIS_USER",
    "HEADRACE_REDIS_PASSWORD",
    "HEADRACE_REDIS_CONNECTION",
    "HEADRACE_SERVICE",
}
"""Variables that are no fields of the settings."""
HISTORY = ("docs/adr/0010-packages-of-the-rooms.md", "CHANGELOG.md", "docs/NEXT.md", "docs/benchmarks.md")
"""Pages that name what once was."""


def _texts() -> Iterator[tuple[str, str]]:
    for page in pages():
        if str(page.relative_to(ROOT)) not in HISTORY:
            yield str(page.relative_to(ROOT)), _without_code(page.read_text())
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "pb2" not in path.name:
                yield str(path.relative_to(ROOT)), "\n".join(re.findall(r'"""(.*?)"""', path.read_text(), re.DOTALL))


def _wrong(name: str, commands: set[str], settings: set[str]) -> str:
    module = re.fullmatch(rf"((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?:\(\))?", name)
    if module:
        return "" if _importable(module[1]) else "there is no such module or name"
    path = re.fullmatch(rf"((?:{'|'.join(ROOMS)}|tests|docs)/[\w./-]+\.\w+)", name)
    if path:
        return "" if (ROOT / path[1]).exists() else "there is no such file"
    command = re.match(r"(?:\./)?headrace ([a-z][a-z-]*)", name)
    if command:
        return "" if command[1] in commands else "there is no such command"
    variable = re.match(r"(HEADRACE_[A-Z_]+)(?:=.*)?$", name)
    if variable and not variable[1].endswith("_"):
        return "" if variable[1] in settings else "there is no such setting"
    return ""


def _importable(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {}) or part in getattr(found, "__dataclass_fields__", {})
            found = getattr(found, part)
        return True
    return False


def faults() -> list[str]:
    """Everything that is wrong with the docs, a sentence each."""
    return [*stale(), *dead_links(), *unknown_names()]
