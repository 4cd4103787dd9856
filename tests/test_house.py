"""The house keeps its own rules: rooms and their tests stay small, packages say what they show, and names lead where they say.

The import order itself is in pyproject.toml (`[tool.importlinter]`), checked by `lint-imports`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("infra", "feature_repo", "streaming", "training", "serving")
MODULES, LINES, FUNCTION, PARAMETERS = 14, 400, 60, 7
"""The most modules of a package; lines of a module; lines of a function, without its docstring; parameters of a function."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
parse = lru_cache(maxsize=None)(ast.parse)


def sources(rooms: Iterable[str] = ROOMS) -> Iterator[tuple[Path, str]]:
    """Every module of the rooms, by its path from the checkout; what protoc has written is left out."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "pb2" not in path.name:
                yield path.relative_to(ROOT), path.read_text()


def functions(text: str) -> Iterator[Function]:
    return (node for node in ast.walk(parse(text)) if isinstance(node, Function))


def excused(text: str, function: Function, word: str) -> bool:
    """Whether the line above the function says why it is long or wide: `# long: …`, `# wide: …`."""
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    return text.splitlines()[first - 2].strip().startswith(f"# {word}: ")


def code_lines(function: Function) -> int:
    lines = function.end_lineno - function.lineno + 1  # type: ignore[operator]
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= first.end_lineno - first.lineno + 1  # type: ignore[operator]
    return lines


def parameters(function: Function) -> int:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def imported(text: str) -> Iterator[str]:
    """Modules that a module imports, as far as their names are written out; `package.name` for a name of a package as well."""
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_package_has_too_many_modules() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path, _ in sources((*ROOMS, "tests")):
        counts[path.parent] += path.name != "__init__.py"
    assert {str(folder): n for folder, n in counts.items() if n > MODULES} == {}


def test_no_module_is_too_long() -> None:
    assert {str(path): text.count("\n") for path, text in sources((*ROOMS, "tests")) if text.count("\n") > LINES} == {}


def test_no_function_is_too_long_unless_a_comment_says_why() -> None:
    long = {
        f"{path}: {f.name}": code_lines(f)
        for path, text in sources()
        for f in functions(text)
        if code_lines(f) > FUNCTION and not excused(text, f, "long")
    }
    assert long == {}


def test_no_function_takes_too_many_parameters_unless_a_comment_says_why() -> None:
    wide = {
        f"{path}: {f.name}": parameters(f)
        for path, text in sources()
        for f in functions(text)
        if parameters(f) > PARAMETERS and not excused(text, f, "wide")
    }
    assert wide == {}


def test_a_package_says_which_modules_are_its_face() -> None:
    """Those, and no others, are imported from outside of it."""
    texts = dict(sources()) | {Path("headrace.py"): (ROOT / "headrace.py").read_text()}
    names = {".".join(path.with_suffix("").parts) for path in texts}
    shown: dict[str, set[str]] = defaultdict(set)
    for path, text in texts.items():
        for name in imported(text):
            parts = name.split(".")
            if name not in names or "flights" in parts:
                continue
            for depth in range(2, len(parts)):  # of every package around it that the importer is not in
                if path.parts[:depth] != tuple(parts[:depth]):
                    shown[".".join(parts[:depth])].add(parts[depth])
    packages = {".".join(path.parent.parts): text for path, text in texts.items() if path.name == "__init__.py" and len(path.parts) > 2}
    said = {}
    for package, text in packages.items():
        face = re.search(r"Face:([^.]*)\.", ast.get_docstring(parse(text)) or "")
        assert face, f"{package} does not say which modules are its face"
        said[package] = {name.strip() for name in face[1].split(",")}
    assert said == {package: shown[package] for package in packages}


def test_every_test_module_lies_where_its_name_says() -> None:
    """`tests/<room>/<package>/` is a package of that room; what is above is a room's or the whole platform's."""
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    wrong = []
    for folder in folders:
        inside = folder.relative_to(ROOT / "tests")
        if inside.parts and inside.parts[0] in ROOMS and not (ROOT / inside).is_dir():
            wrong.append(str(inside))
    assert wrong == []


def test_no_module_holds_a_function_of_its_own_name() -> None:
    """Or importing one would hide the other. A `cli` module's functions are named as the commands are."""
    own = [
        f"{path}: {node.name}"
        for path, text in sources()
        for node in ast.parse(text).body
        if isinstance(node, Function | ast.ClassDef) and node.name == path.stem
    ]
    assert own == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even for types, or inside a function."""
    texts = {".".join(path.with_suffix("").parts): text for path, text in sources()}
    graph = {name: {one for one in imported(text) if one in texts and one != name} for name, text in texts.items()}
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_what_is_imported_is_there_also_where_the_import_stands_in_a_string() -> None:
    """A script that a test hands to a process of its own, say: no type checker reads it."""
    texts = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): text for path, text in sources((*ROOMS, "tests"))}
    known: dict[str, set[str]] = {}
    wrong = []
    for name, text in texts.items():
        for module, names in re.findall(r"from ((?:infra|feature_repo|streaming|training|serving|tests)\b[\w.]*) import ([\w ,]+)", text):
            if module not in known:
                tree = ast.walk(ast.parse(texts.get(module, "")))
                known[module] = {one for node in tree for one in _named(node)} | {
                    m.rpartition(".")[2] for m in texts if m.startswith(f"{module}.")
                }
            asked = {one.split(" as ")[0].strip() for one in names.split(",") if one.strip()}
            wrong += [f"{name}: {module}.{one}" for one in sorted(asked - known[module]) if "pb2" not in one]
    assert wrong == []


def _named(node: ast.AST) -> Iterator[str]:
    """What a node gives a name to."""
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).split(".")[0]
