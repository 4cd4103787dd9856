"""The pages of docs/reference/ and the schemas of docs/schemas/, made of the code itself: `./headrace docs --write` writes them."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docs.kinds import kinds

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
SCHEMAS = ROOT / "docs" / "schemas"
HEAD = "<!-- Made by `./headrace docs --write` from the code: do not edit. -->\n\n"
WIDTH = 100
"""Characters of a line, outside tables."""
_KEPT = "\0"
"""Stands for a space that no line may end at."""


def commands() -> str:
    """Every command with its help and options."""
    import typer

    from headrace import app
    from infra.cli import OWN_EXIT_CODES

    group: Any = typer.main.get_command(app)
    text = "# Commands\n\n`./headrace COMMAND --help` shows the same. Every command ends with 0 where it has done its work, and\n"
    text += "with another code where it has not: see [exit codes](exit-codes.md).\n"
    for name, command in group.commands.items():
        text += f"\n## {name}\n{_plain(command.help or '')}\n"
        rows = [one for one in (_parameter(parameter) for parameter in command.params) if one]
        if rows:
            text += "\n| option | default | what |\n|---|---|---|\n" + "".join(rows)
        if name in OWN_EXIT_CODES:
            text += "\nExit codes of its own:\n\n" + _list(OWN_EXIT_CODES[name])
    return text


def exit_codes() -> str:
    """What each exit code means."""
    from infra.cli import EXIT_CODES, OWN_EXIT_CODES

    text = "# Exit codes\n\nA script sees from a command's exit code whether it worked. Example: a nightly job runs the backfill,\n"
    text += "and tries again an hour later where another one is at work:\n\n```bash\n./headrace backfill\n"
    text += "case $? in 0) echo done ;; 75) echo 'later' ;; *) echo 'somebody has to look' ;; esac\n```\n"
    text += "\n## Every command\n\n" + _list(EXIT_CODES)
    text += "\nA service in the foreground (`serve`, `stream`, `watch`, `autopilot`) ends with 0 when it is told to end, by Ctrl-C\n"
    text += "or by SIGTERM. A code of more than 128 is 128 and the number of the signal.\n"
    text += "\n## Commands with a meaning of their own\n"
    for name, own in OWN_EXIT_CODES.items():
        text += f"\n### {name}\n\n" + _list(own)
    return text


def _list(meanings: dict[int, str]) -> str:
    """Codes with their meanings, as a list."""
    return "".join(f"* `{code}`: {_named(what)}\n" for code, what in meanings.items())


def _named(text: str) -> str:
    """With the names of settings in backticks."""
    return re.sub(r"(HEADRACE_[A-Z_]+)", r"`\1`", text)


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
    """A type in words; of a closed list, what may be given."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType) and any(get_origin(one) is Literal for one in get_args(annotation)):
        return " or ".join(_type(one) for one in get_args(annotation) if one is not type(None))
    return str(getattr(annotation, "__name__", annotation)).replace("pathlib.", "").replace("typing.", "").replace("|", "or")


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema of `ingest.yaml` (`ingest`) or of `models/*.yaml` (`model`)."""
    from feature_repo.spec.ingest import Ingest
    from feature_repo.spec.model import ModelSpec

    schemas: dict[str, Any] = {"ingest": Ingest, "model": ModelSpec}
    made = schemas[kind].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def fields_of(kind: str, title: str, example: str) -> str:
    """A schema as tables, one for each object in it; `example` is a file that names it."""
    schema = schema_of(kind)
    text = f"# {title}\n\nEditors with the YAML language server complete and check a file whose first line names its schema\n"
    text += f"([`docs/schemas/{kind}.schema.json`](../schemas/{kind}.schema.json)). The path is relative to the file. Example:\n"
    text += f"`{example}` begins with\n\n```yaml\n{(ROOT / example).read_text().splitlines()[0]}\n```\n"
    for name, one in {title: schema, **schema.get("$defs", {})}.items():
        if "properties" not in one:
            continue
        text += f"\n## {name}\n" if name != title else "\n"
        if one.get("description"):
            text += inspect.cleandoc(one["description"]).split("\n\n")[0].replace("\n", " ") + "\n"
        text += "\n| field | type | default | what |\n|---|---|---|---|\n"
        for field, said in one["properties"].items():
            default = "required" if field in one.get("required", []) else _default(said, schema)
            text += f"| `{field}` | {_shape(said)} | {default} | {said.get('description', '')} |\n"
    return text


def _default(said: dict[str, Any], schema: dict[str, Any]) -> str:
    """A field's default; of an object that is as its own table says, where that table is."""
    if "default" not in said:
        return ""
    name = said.get("$ref", "").rpartition("/")[2]
    own = schema.get("$defs", {}).get(name, {}).get("properties", {})
    # a default that is made anew each time, such as an empty list, is not in the schema
    if name and all(own[field].get("default", value) == value for field, value in said["default"].items()):
        return f"[see there](#{name.lower()})"
    return f"`{json.dumps(said['default'])}`"


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


STATES = {
    "well": "Its last round did its work.",
    "starting": "It was started here, and has said nothing yet; after three minutes without a word it is `silent`.",
    "failing": "Its last round did not do its work; `detail` says why.",
    "silent": "It has ended no round for three of its intervals, or its process does not run.",
}
"""What the states of a part mean."""
SERVICES = {
    "running": "It runs, and the supervisor looks after it.",
    "unwatched": "It runs, and the supervisor does not: what ends now stays down until the next `up`.",
    "stopped": "It was told to end.",
    "starting": "It is being started.",
    "failing": "It ends again and again, and waits for its next try.",
    "stopping": "It was told to end, and has not ended yet.",
}
"""What the states of a service mean."""


def statuses() -> str:
    """Every status: of a value, of an answer over HTTP and gRPC, of the parts of the platform."""
    from feature_repo.records.prediction import STATUSES
    from infra.supervision import services
    from infra.supervision.beat import Part
    from serving.handlers.data_plane import GONE, DataPlane
    from serving.handlers.feast import STATUS as FEAST

    text = '# Statuses\n\n## Of a feature\'s value\n\nEvery value of a prediction has a status. Example: `"missing": 2` in an answer says that of two\n'
    text += "values the store has nothing. [Semantics](../semantics.md) explains when that is so. Where the model gets null,\n"
    text += "the input's null policy (`nulls:` in the model's YAML) says what becomes of it.\n"
    text += "\n| status | in the log | Feast's name | what the model gets |\n|---|---|---|---|\n"
    text += "".join(f"| {s.name} | `{s.letter}` | {FEAST.get(s.letter, '')} | {s.model} |\n" for s in STATUSES) + "\n"
    text += "".join(f"* **{s.name}**: {s.meaning}\n" for s in STATUSES)
    text += "\n## Of a model\n\n`GET /v1/models` says of each model:\n\n"
    text += "* **live**: a version answers.\n"
    text += "* **degraded**: the version before answers. The one that was asked for was refused; `reason` says why.\n"
    text += "* **refused**: no version answers; `reason` says why.\n"
    text += _problems(GONE)
    text += (
        "\n## Of `/readyz`\n\nThe answer is 200 while predictions can be made. It is 503 in these cases (`…` stands for the reason):\n\n"
    )
    text += "".join(f"* {sentence}\n" for asked in (DataPlane.check_models, DataPlane.ready) for sentence in _raised(asked))
    text += "\n`degraded` lists the parts that do not do their work: those that are *failing* or *silent*. With `?strict` such a list is a 503,\n"
    text += "too. [Operations](../operations.md) says what each part does. A part has one of these states:\n\n"
    text += "".join(f"* **{state}**: {STATES[state]}\n" for state in get_args(get_type_hints(Part)["state"]))
    kept = [
        (runs, said) for runs in (True, False) for said in ("RUNNING", "", "STARTING", "BACKOFF", "STOPPING") if runs or said != "RUNNING"
    ]
    text += "\n## Of a service\n\n`headrace status` says of each service that `up` has started one of these. Of one that runs and does not do its\n"
    text += "work it says *failing* or *silent*, as above.\n\n"
    return text + "".join(f"* **{state}**: {SERVICES[state]}\n" for state in dict.fromkeys(services._state(*one) for one in kept))


def _problems(gone: int) -> str:
    """What an answer that is no prediction says."""
    from serving.deployment import haproxy
    from serving.grpc import servicer
    from serving.http import origin
    from serving.protocol import problem

    known = [one for module in (problem, origin) for one in vars(module).values() if inspect.isclass(one)]
    kinds: list[type[problem.Problem]] = sorted(
        {one for one in known if issubclass(one, problem.Problem)}, key=lambda one: (one.status, one.kind)
    )
    text = "\n## Of an answer over HTTP\n\nAn answer that is not the one asked for is a problem object (`application/problem+json`, RFC 9457). Its `type`\n"
    text += "says what happened, its `detail` says what to do. Example:\n\n```json\n"
    example = problem.NotFound("There is no model 'departure_delay'. There is: arrival_delay.")
    text += json.dumps(json.loads(example.body()), indent=1) + "\n```\n\n"
    for one in kinds:
        first = inspect.cleandoc(one.__doc__ or "").split("\n\n")[0].replace("\n", " ").removeprefix(f"{one.status} ")
        first = first[0].upper() + first[1:] if one is not problem.Problem else "The server failed on the request; its log says why."
        text += f"* **{one.status}** `urn:headrace:problem:{one.kind}`, _{one.title}_. {_named(first)}\n"
    text += "\nA problem of type `about:blank` says no more than its HTTP status: 404 and 405 for a path or a method that nobody\n"
    text += "answers, and these, which HAProxy answers itself (502 and 500 of a replica that is gone become 503):\n\n"
    for status, (said, title, detail) in haproxy._PAGES.items():
        if status == said and status != 503:
            text += f"* **{status}** _{title}_. {detail}\n"
    text += f"\n`headrace_calls_total` counts {gone} where the caller went away before the answer.\n"
    text += "\n## Of an answer over gRPC\n\n| problem | gRPC status |\n|---|---|\n"
    for one, code in sorted(servicer._CODES.items(), key=lambda pair: (pair[0].status, pair[0].kind)):
        text += f"| `{one.kind}` ({one.status}) | {code.name} |\n"
    return text + f"| all others | {servicer._code(problem.Problem('')).name} |\n"


def _raised(function: Callable[..., Any]) -> Iterator[str]:
    """The sentences of the problems that a function raises; `…` where it fills something in."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            said = node.exc.args[0]
            parts = said.values if isinstance(said, ast.JoinedStr) else [said]
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def wrapped(text: str) -> str:
    """A page with lines of at most WIDTH characters; headings, tables, fenced blocks and code spans stay whole."""
    done: list[str] = []
    block: list[str] = []
    fenced = False

    def end() -> None:
        if block:
            line = re.sub(r"`[^`]+`", lambda span: span[0].replace(" ", _KEPT), " ".join(block))
            indent = "  " if line.startswith("* ") else ""
            lines = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
            done.extend(one.replace(_KEPT, " ") for one in lines)
            block.clear()

    for line in text.split("\n"):
        fence = line.startswith("```")
        if fence or fenced or not line or line[0] in "#|<":
            end()
            done.append(line)
            fenced ^= fence
        else:
            if line.startswith("* "):
                end()
            block.append(line.strip())
    end()
    return "\n".join(done)


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "exit-codes": exit_codes,
    "settings": settings,
    "ingest": lambda: fields_of("ingest", "ingest.yaml", "feature_repo/flights/ingest.yaml"),
    "model": lambda: fields_of("model", "models/*.yaml", "feature_repo/flights/models/arrival_delay.yaml"),
    "http": http,
    "metrics": metrics,
    "statuses": statuses,
    "kinds": kinds,
}


def made() -> dict[Path, str]:
    """Every generated file with its content."""
    found = {FOLDER / f"{name}.md": HEAD + wrapped(page().rstrip()) + "\n" for name, page in PAGES.items()}
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
