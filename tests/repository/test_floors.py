"""Holds the imports to the floors of docs/architecture.md: arrows go down, lazy ones too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nbruntime"

FLOORS = {
    1: ("_version", "secrets", "display", "errors", "protocol", "generation"),
    2: ("chat", "frontend", "endpoint"),
    3: ("launch", "runtime"),
    4: ("profiling",),
    5: ("notebook",),
}
"""The rooms by floor, and on a floor from low to high; the embedded server stands beside them."""

FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
HEIGHT = {room: height for height, room in enumerate(FLOOR)}
"""A room imports only rooms of a lesser height."""

INNER_ROOMS = {
    "notebook": (("views",), ("magics",), ("",)),
    "profiling": (
        ("records", "bench_run", "figures", "confidence"),
        ("trace",),
        ("profile_data", "request_bars", "sweep_point"),
        ("plots",),
        ("",),
        ("recording",),
        ("bench.results",),
        ("bench",),
    ),
}
"""Floors inside a room, from low to high: rooms and modules; the empty name is every other module."""

STANDARD_LIBRARY_ONLY = "nbruntime.launch.supervisor"
"""Runs with any interpreter, also where nbruntime is not installed: a package that imports itself alone."""

ONLY_ROOM = {"matplotlib": "nbruntime.profiling.plots"}
"""The room that a package belongs to, for every module of its floor."""

LOWEST_FLOOR = {"IPython": 5, "ipykernel": 5, "ipywidgets": 5, "matplotlib": 4}
"""Where a package may be imported first, even inside a function."""

HEAVY = {
    "gguf",
    "huggingface_hub",
    "llguidance",
    "safetensors",
    "sglang",
    "tokenizers",
    "torch",
    "transformers",
}
"""Outside of the embedded server these are imported by what asks for them, not with the module."""

FLOOR_1_LIBRARIES = {"display": {"markdown_it", "pygments"}}
"""What a room of floor 1 may import besides the standard library, in the functions that need it."""

DECODERS = {"msgspec"}
"""What protocol may import besides the standard library, with the module."""

OPTIONAL = {"pandas"}
"""Imported on any floor, but only by the call that needs it, which says so where it is missing."""


@dataclass(frozen=True)
class Import:
    """One name that a module imports."""

    source: str
    """Dotted name of the importing module."""
    target: str
    """Dotted name of what is imported, as far as it is a module."""
    line: int
    lazy: bool
    """Inside a function or under ``if TYPE_CHECKING``: not executed when the module is imported."""

    @property
    def room(self) -> str:
        """First folder or file of the importing module inside nbruntime; empty for nbruntime itself."""
        return self.source.partition(".")[2].partition(".")[0]


def imports_of(package: Path) -> Iterator[Import]:
    """Every import of every module below a package's folder, wherever in the module it stands."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    for name, path in names.items():
        yield from _imports_below(ast.parse(path.read_text()), name, path, names, lazy=False)


def _imports_below(
    node: ast.AST, source: str, path: Path, modules: dict[str, Path], lazy: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, source, path, modules):
            yield Import(source, target, child.lineno, lazy)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield from _imports_below(ast.Module([part], []), source, path, modules, lazy=True)
            for part in child.orelse:
                yield from _imports_below(ast.Module([part], []), source, path, modules, lazy)
        else:
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports_below(child, source, path, modules, lazy or deferred)


def _targets(node: ast.AST, source: str, path: Path, modules: dict[str, Path]) -> list[str]:
    """Modules that a single statement or call imports; none for any other node."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = module or ""
            if level:
                package = source.split(".") if path.name == "__init__.py" else source.split(".")[:-1]
                package = package[: len(package) - level + 1]
                base = ".".join([*package, module] if module else package)
            # `from nbruntime import endpoint` names a module, `from nbruntime import Runtime` does not.
            inner = [f"{base}.{alias.name}" for alias in names]
            return [name if name in modules else base for name in inner]
        case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__")):
            match node.args:
                case [ast.Constant(value=str(name)), *_] if not name.startswith("."):
                    return [name]
    return []


def complaint(found: Import) -> str | None:
    """What is wrong with an import, or None."""
    top, _, rest = found.target.partition(".")
    room = rest.partition(".")[0]
    inside = found.room == "embedded"
    if f"{found.source}.".startswith(f"{STANDARD_LIBRARY_ONLY}."):
        own = f"{found.target}.".startswith(f"{STANDARD_LIBRARY_ONLY}.")
        return None if own or top in sys.stdlib_module_names else "the supervisor is standard library only"
    if found.room and not inside and found.room not in FLOOR:
        return f"{found.room} has no floor"
    floor = 1 if inside else FLOOR.get(found.room, max(FLOORS))
    if top == "nbruntime":
        return _inner_complaint(found, room, inside, floor)
    if top in OPTIONAL and found.lazy:
        return None
    if found.lazy and top in FLOOR_1_LIBRARIES.get(found.room, ()):
        return None
    if found.room == "protocol" and top in DECODERS:
        return None
    if floor == 1 and not inside and top not in sys.stdlib_module_names:
        return "floor 1 is standard library only"
    if found.room and (inside or floor < LOWEST_FLOOR.get(top, 0)) and top in LOWEST_FLOOR:
        return f"{top} belongs to floor {LOWEST_FLOOR[top]}"
    if top in ONLY_ROOM and not f"{found.source}.".startswith(f"{ONLY_ROOM[top]}."):
        return f"only {ONLY_ROOM[top]} imports {top}"
    if not found.room and not found.lazy and top not in sys.stdlib_module_names:
        return "import nbruntime is light"
    if top in HEAVY and not inside and not found.lazy:
        return f"{top} is imported with the module"
    return None


def _inner_complaint(found: Import, room: str, inside: bool, floor: int) -> str | None:
    if found.source.startswith("nbruntime.embedded.service") and found.target.startswith(
        "nbruntime.embedded.http"
    ):
        return "embedded.service is below embedded.http"
    if room == "embedded":
        return None if inside else "nothing imports the embedded server"
    if not found.room:
        lowest = room == "_version" or found.lazy
        return None if lowest else "import nbruntime loads the floors lazily"
    if not room:
        return "nbruntime itself is above every floor: import the module that holds the name"
    if FLOOR.get(room, 0) > floor:
        return f"floor {floor} imports floor {FLOOR[room]}"
    if not inside and HEIGHT.get(room, -1) > HEIGHT[found.room]:
        return f"{found.room} is below {room}"
    if not inside and room == found.room:
        return _upward_inside(found, room)
    return None


def _upward_inside(found: Import, room: str) -> str | None:
    """What is wrong with an import between the inner rooms of a room, or None."""
    floors = INNER_ROOMS.get(room)
    if floors is None:
        return None
    source, target = (
        _inner_floor(name.partition(f".{room}.")[2], floors) for name in (found.source, found.target)
    )
    if target > source:
        return f"{room}'s {_named(floors[source])} is below {_named(floors[target])}"
    return None


def _inner_floor(name: str, floors: tuple[tuple[str, ...], ...]) -> int:
    """Return the floor inside a room on which a module stands: that of the longest name that fits."""
    fitting = [
        (len(inner), height)
        for height, floor in enumerate(floors)
        for inner in floor
        if not inner or f"{name}.".startswith(f"{inner}.")
    ]
    return max(fitting)[1]


def _named(floor: tuple[str, ...]) -> str:
    return ", ".join(name or "other modules" for name in floor)


def circles(package: Path) -> list[list[str]]:
    """Groups of modules that import each other in a circle, lazy and type-only imports included.

    Tarjan's algorithm; the import of a package by its own modules is not counted.
    """
    edges: dict[str, set[str]] = {}
    for found in imports_of(package):
        if found.target.startswith("nbruntime.") and not f"{found.source}.".startswith(f"{found.target}."):
            edges.setdefault(found.source, set()).add(found.target)
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in edges.get(module, ()):
            if target not in order:
                visit(target)
            if target in stack:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == order[module]:
            at = stack.index(module)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                groups.append(group)

    for module in sorted(edges):
        if module not in order:
            visit(module)
    return groups


def complaints(package: Path) -> list[str]:
    """Every import below a package's folder that breaks a rule, as ``module:line: target: why``."""
    return [
        f"{found.source}:{found.line}: {found.target}: {why}"
        for found in imports_of(package)
        if (why := complaint(found)) is not None
    ]


def test_imports_obey_the_floors() -> None:
    found = list(imports_of(PACKAGE))
    inner = [one for one in found if one.target.split(".")[0] == "nbruntime"]
    print(f"{len(found)} imports, {len(inner)} of them between modules of nbruntime")
    assert inner, "the checker reads no import of nbruntime at all"
    assert complaints(PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle(tmp_path: Path) -> None:
    assert circles(PACKAGE) == []
    package = _tree(
        tmp_path,
        {
            "protocol/events.py": "from . import sampling",
            "protocol/sampling.py": "def f():\n    from ..errors import StreamError",
            "errors.py": "if TYPE_CHECKING:\n    from .protocol import events",
        },
    )
    assert circles(package) == [
        ["nbruntime.errors", "nbruntime.protocol.events", "nbruntime.protocol.sampling"]
    ]


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("errors.py", "from .protocol import events", "errors is below protocol"),
        ("errors.py", "def f():\n    from .generation import Generation", "errors is below generation"),
        ("launch/server.py", "from ..runtime import Runtime", "launch is below runtime"),
        (
            "notebook/views.py",
            "def f():\n    from .magics import options",
            "notebook's views is below magics",
        ),
        (
            "profiling/trace/reader.py",
            "def f():\n    from ..profile_data import ProfileData",
            "profiling's trace is below profile_data",
        ),
        ("profiling/plots/ttft.py", "from ..profile import Profile", "plots is below other modules"),
        (
            "profiling/plots/sweep.py",
            "from ..bench.results.result import BenchResult",
            "plots is below bench.results",
        ),
        (
            "profiling/profile.py",
            "from .recording.recorder import Recorder",
            "other modules is below recording",
        ),
        ("profiling/profile.py", "def f():\n    import matplotlib", "only nbruntime.profiling.plots imports"),
        ("protocol/events.py", "import requests", "floor 1 is standard library only"),
        ("protocol/events.py", "def f():\n    import numpy", "floor 1 is standard library only"),
        ("protocol/events.py", "import pandas", "floor 1 is standard library only"),
        ("generation/record.py", "import msgspec", "floor 1 is standard library only"),
        ("errors.py", "from .endpoint import client", "floor 1 imports floor 2"),
        ("errors.py", "def f():\n    from nbruntime.endpoint import client", "floor 1 imports floor 2"),
        ("endpoint/client.py", "from ..runtime import Runtime", "floor 2 imports floor 3"),
        ("endpoint/client.py", "from .. import runtime", "floor 2 imports floor 3"),
        ("endpoint/client.py", "from nbruntime import Runtime", "nbruntime itself is above"),
        ("endpoint/client.py", "async def f():\n    import matplotlib.pyplot", "belongs to floor 4"),
        ("runtime.py", "from IPython.display import display", "belongs to floor 5"),
        ("runtime.py", "import importlib\nimportlib.import_module('ipywidgets')", "belongs to floor 5"),
        ("runtime.py", "import transformers", "imported with the module"),
        ("runtime.py", "if True:\n    from .embedded import server", "nothing imports the embedded server"),
        ("runtime.py", "if TYPE_CHECKING:\n    from .notebook import views", "floor 3 imports floor 5"),
        ("embedded/server.py", "from ..endpoint import client", "floor 1 imports floor 2"),
        ("embedded/server.py", "def f():\n    import matplotlib", "belongs to floor 4"),
        (
            "embedded/service/admission.py",
            "from ..http import generate",
            "embedded.service is below embedded.http",
        ),
        (
            "launch/supervisor.py",
            "from ..errors import LaunchError",
            "the supervisor is standard library only",
        ),
        ("launch/supervisor.py", "def f():\n    import psutil", "the supervisor is standard library only"),
        (
            "launch/supervisor/tree.py",
            "from ...errors import LaunchError",
            "the supervisor is standard library only",
        ),
        ("__init__.py", "from .runtime import Runtime", "loads the floors lazily"),
        ("__init__.py", "import requests", "import nbruntime is light"),
        ("__init__.py", "def f():\n    from .embedded import server", "nothing imports the embedded server"),
        ("attic/things.py", "import os", "attic has no floor"),
    ],
)
def test_a_violation_is_reported(tmp_path: Path, path: str, source: str, why: str) -> None:
    package = _tree(tmp_path, {path: source})
    (complaint,) = complaints(package)
    print(complaint)
    assert why in complaint


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("protocol/events.py", "import json\nfrom ..errors import StreamError\nfrom . import sampling"),
        ("protocol/events.py", "def f():\n    import pandas"),
        ("endpoint/client.py", "import requests\nfrom ..generation import Generation"),
        ("runtime.py", "from .launch import supervisor\ndef f():\n    import transformers"),
        ("profiling/plots.py", "from matplotlib.figure import Figure"),
        ("profiling/plots/sweep.py", "from ..bench_run import BenchRun"),
        ("profiling/bench/bench.py", "from ..profile import Profile"),
        ("notebook/views.py", "import ipywidgets\nfrom ..runtime import Runtime"),
        ("embedded/server.py", "import torch\nfrom .engine import Engine\nfrom ..protocol import sampling"),
        ("launch/supervisor.py", "import os\nimport subprocess"),
        ("launch/supervisor/tree.py", "from . import system\nfrom .order import Order"),
        ("__init__.py", "from ._version import __version__\ndef f():\n    from .runtime import Runtime"),
    ],
)
def test_allowed_imports_are_accepted(tmp_path: Path, path: str, source: str) -> None:
    assert complaints(_tree(tmp_path, {path: source})) == []


def _tree(folder: Path, files: dict[str, str]) -> Path:
    """A small nbruntime with a module in every room."""
    package = folder / "nbruntime"
    rooms = ["errors", "generation", "runtime", "protocol.events", "protocol.sampling", "endpoint.client"]
    rooms += [
        "launch.supervisor",
        "launch.engines",
        "notebook.views",
        "notebook.magics",
        "profiling.plots",
        "profiling.profile",
        "profiling.profile_data",
        "profiling.recording.recorder",
        "profiling.bench_run",
        "profiling.bench.results.result",
        "embedded.server",
        "embedded.engine",
    ]
    for room in rooms:
        path = package.joinpath(*room.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for initial in [package, *(path for path in package.iterdir() if path.is_dir())]:
        (initial / "__init__.py").write_text("")
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return package


def test_the_supervisor_runs_without_nbruntime(tmp_path: Path) -> None:
    supervisor = PACKAGE / "launch" / "supervisor" / "__main__.py"
    # -I: neither the working directory nor the environment; -S: no site-packages.
    code = (
        f"import runpy, sys; runpy.run_path({str(supervisor)!r}, run_name='program');"
        "print([name for name in sys.modules if name.startswith('nbruntime')])"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (ran.returncode, ran.stdout) == (0, "[]\n"), ran.stderr
