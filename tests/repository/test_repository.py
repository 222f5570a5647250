"""The repository's files: docstrings, documents and notebooks that hold."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import nbruntime
from nbruntime.notebook.magics.launch_line import server_options
from nbruntime.notebook.magics.options import option_names
from nbruntime.notebook.magics.sgl_magics import SglMagics
from nbruntime.profiling.plots import PLOTS
from nbruntime.protocol.profile import PROFILE_OPTIONS

ROOT = Path(__file__).parents[2]

NOT_FOR_A_REPOSITORY = re.compile(
    r"/(?:work|root|home|farm)/|/opt/(?:wheels|pypi)|/tmp/"
    r"|pythonhosted\.org|pypi\.org|download\.pytorch\.org|registry\.npmjs\.org|deb\.debian\.org"
)
"""Paths of one machine, and hosts of registries, which belong into pip's own settings."""


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def _modules() -> list[str]:
    paths = [path for path in ROOT.glob("nbruntime/**/*.py") if path.name != "__main__.py"]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    found = []
    files = _tracked()
    for path in files:
        if path == Path(__file__) or path.suffix in {".png", ".gz"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [
                f"{path.relative_to(ROOT)}:{number}: {match[0]}"
                for match in NOT_FOR_A_REPOSITORY.finditer(line)
            ]
    print(f"{len(files)} tracked files")
    assert len(files) > 10
    assert found == []


@pytest.mark.parametrize("document", [path.relative_to(ROOT) for path in _tracked("*.md")], ids=str)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]
    missing = [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()]
    print(f"{len(targets)} links in {document}")
    assert missing == []


@pytest.mark.model
@pytest.mark.parametrize(
    ("document", "at_least"), [("architecture", 20), ("frontend", 6), ("notebook", 6), ("profiling", 4)]
)
def test_names_in_a_document_exist(document: str, at_least: int) -> None:
    text = (ROOT / "docs" / f"{document}.md").read_text(encoding="utf-8")
    rooms = "|".join(path.stem for path in (ROOT / "nbruntime").iterdir() if not path.name.startswith("_"))
    names = sorted(set(re.findall(rf"`((?:{rooms})(?:\.\w+)*)`", text)))
    print(f"{len(names)} names")
    assert len(names) >= at_least
    assert [name for name in names if not _exists(f"nbruntime.{name}")] == []


def _exists(dotted: str) -> bool:
    found: ModuleType | Any = nbruntime
    path = "nbruntime"
    for part in dotted.split(".")[1:]:
        path = f"{path}.{part}"
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
    return True


@pytest.mark.parametrize("document", ["README.md", "docs/profiling.md", "notebooks/05_profiling.ipynb"])
def test_names_of_profiles_and_load_tests_in_a_document_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    holders = {"profile": nbruntime.Profile(), "result": nbruntime.BenchResult([]), "nbruntime": nbruntime}
    named = set(re.findall(rf"(?<![\w.])({'|'.join(holders)})\.(\w+)(?:\.(\w+))?", text))
    names = {f"{name}.{rest}" for name, *rests in named for rest in [".".join(filter(None, rests))]}
    names -= {f"profile.{kind}" for kind in ("png", "json.gz")}  # files
    assert len(names) >= 3
    assert [name for name in sorted(names) if not _has(holders, name)] == []


def _has(holders: Mapping[str, Any], dotted: str) -> bool:
    first, *rest = dotted.split(".")
    try:
        attrgetter(".".join(rest))(holders[first])
    except AttributeError:
        return False
    return True


def test_every_plot_and_argument_of_profiling_is_in_its_document() -> None:
    text = (ROOT / "docs" / "profiling.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(plot_\w+)`", text)) == set(PLOTS)
    calls = [nbruntime.RuntimeEndpoint.profile, nbruntime.RuntimeEndpoint.start_profile, nbruntime.bench]
    known = {name for call in calls for name in inspect.signature(call).parameters}
    known |= {*PROFILE_OPTIONS, *inspect.signature(nbruntime.Generation.explain).parameters, "theme"}
    known |= {"engine", "enable_metrics", "api_key"}  # of a launch
    used = set(re.findall(r"\b([a-z_]+)=", text))
    print(f"{len(used)} arguments")
    assert len(used) >= 12
    assert used - known == set()


@pytest.mark.parametrize(
    "document", ["README.md", "docs/notebook.md", "docs/profiling.md", "notebooks/02_in_the_notebook.ipynb"]
)
def test_magics_and_their_options_in_a_document_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    parsers = {
        f"{'%%' if kind == 'cell' else '%'}{name}": getattr(SglMagics, name).parser
        for kind, names in SglMagics.magics.items()
        for name in names
    }
    options = {name: set(option_names(parser)) for name, parser in parsers.items()}
    options["%sgl_launch"] |= set(server_options())
    wrong, named = [], set()
    for name, line in re.findall(r"(%+sgl_\w+)([^\n`|]*)", text):
        named.add(name)
        used = re.findall(r"(?<!\S)\[?(--?[a-z][\w-]*)", line)
        wrong += [f"{name} {option}" for option in used if option not in options.get(name, ())]
    every = set().union(*options.values(), ["--to", "--port"])  # of nbconvert, of the embedded server
    wrong += [option for option in re.findall(r"`(--[a-z][\w-]*)", text) if option not in every]
    print(f"{document}: {', '.join(sorted(named))}")
    assert named
    assert wrong == []


@pytest.mark.parametrize("name", _modules())
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    print(f"{result.attempted} examples in {name}")
    assert result.failed == 0


def test_documented_parameters_are_those_of_the_signature() -> None:
    checked, wrong = 0, []
    for path in sorted((ROOT / "nbruntime").rglob("*.py")):
        for name, documented, taken in _parameters(ast.parse(path.read_text(encoding="utf-8"))):
            checked += 1
            if unknown := [parameter for parameter in documented if parameter not in taken]:
                wrong.append(f"{path.relative_to(ROOT)}: {name} documents {', '.join(unknown)}")
    print(f"{checked} docstrings with parameters")
    assert checked
    assert wrong == []


def _parameters(tree: ast.Module) -> Iterator[tuple[str, list[str], set[str]]]:
    """Each documented class or function: its name, the parameters it documents, those it takes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                taken = _arguments(node)
            case ast.ClassDef():
                # A dataclass takes its fields; another class what its __init__ takes.
                taken = {field.target.id for field in node.body if isinstance(field, ast.AnnAssign)}  # type: ignore[union-attr]
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name in {"__init__", "__new__"}:
                        taken |= _arguments(method)
                if node.bases:
                    continue  # what it takes may stand in another file
            case _:
                continue
        section = re.search(
            r"Parameters\n-+\n(.*?)(?:\n\n\w[\w ]*\n-+\n|\Z)", ast.get_docstring(node) or "", re.DOTALL
        )
        if section:
            lines = [line for line in section[1].splitlines() if line and not line.startswith(" ")]
            names = [name.strip().lstrip("*") for line in lines for name in line.split(" : ")[0].split(",")]
            yield node.name, names, taken


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    taken = function.args
    arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
    return {argument.arg for argument in arguments if argument is not None}


def test_the_oldest_versions_are_the_lower_limits() -> None:
    """`make test-oldest` tests what pyproject.toml promises, but for torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {}
    for line in (ROOT / "constraints-oldest.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = Version(version)
    limits = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["embedded"]])
    differing = {
        limit.name: pins[limit.name]
        for limit in limits
        if {each.version for each in limit.specifier if Version(each.version) == pins[limit.name]} == set()
    }
    assert set(differing) == {"torch"}, differing


@pytest.mark.parametrize("notebook", [path.relative_to(ROOT) for path in _tracked("*.ipynb")], ids=str)
def test_a_notebook_was_run_from_top_to_bottom(notebook: Path) -> None:
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert outputs
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    live = [kind for output in outputs for kind in output.get("data", {}) if "widget" in kind]
    assert live == [], "a widget is nothing without its kernel"
