"""``%load_ext nbruntime``: quick, repeatable, and nothing is left of it afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import completions, failure, notebook_shell, run

MAGICS = {
    "line": {
        "sgl_launch", "sgl_connect", "sgl_servers", "sgl_use",
        "sgl_info", "sgl_logs", "sgl_stop", "sgl_flush",
        "sgl_generate", "sgl_chat", "sgl_profile",  # for their help
    },
    "cell": {"sgl_generate", "sgl_chat", "sgl_profile"},
}  # fmt: skip


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[InteractiveShell]:
    with notebook_shell(tmp_path) as made:
        yield made


def ours(shell: InteractiveShell) -> dict[str, set[str]]:
    tables = shell.magics_manager.magics
    return {kind: {name for name in tables[kind] if name.startswith("sgl_")} for kind in ("line", "cell")}


def footprint(shell: InteractiveShell) -> dict[str, object]:
    """Everything of a shell that an extension can leave something in."""
    return {
        "magics": {kind: dict(table) for kind, table in shell.magics_manager.magics.items()},
        "registry": dict(shell.magics_manager.registry),
        "configurables": list(shell.configurables),
        "matchers": [*shell.Completer.custom_matchers, *shell.Completer.magic_arg_matchers],
        "events": [(name, each) for name, them in shell.events.callbacks.items() for each in them],
        "transformers": list(shell.input_transformers_cleanup),
        "formatters": [
            *shell.display_formatter.ipython_display_formatter.deferred_printers,
            *shell.display_formatter.formatters["text/plain"].deferred_printers,
        ],
        "enabled": shell.display_formatter.ipython_display_formatter.enabled,
        "names": set(shell.user_ns),
        "hidden": set(shell.user_ns_hidden),
    }


def test_the_magics_are_there(shell: InteractiveShell) -> None:
    run(shell, "%load_ext nbruntime")
    assert ours(shell) == MAGICS


def test_load_unload_and_reload_as_often_as_wanted(shell: InteractiveShell) -> None:
    run(shell, "1")  # what a first cell leaves by itself
    shell.display_formatter.ipython_display_formatter.enabled = False  # as in a terminal of IPython 7
    if hasattr(shell.magics_manager, "load_all_lazy_magics"):  # since IPython 9
        shell.magics_manager.load_all_lazy_magics()
    before = footprint(shell)
    run(shell, "%load_ext nbruntime")
    loaded = footprint(shell)
    assert loaded != before
    run(shell, "%load_ext nbruntime")
    assert footprint(shell) == loaded
    for _ in range(3):
        run(shell, "%reload_ext nbruntime")
        assert ours(shell) == MAGICS
        again = footprint(shell)
        for what in ("matchers", "configurables", "events", "transformers", "formatters"):
            assert len(again[what]) == len(loaded[what]), what  # type: ignore[arg-type]
    run(shell, "%unload_ext nbruntime")
    assert footprint(shell) == before
    run(shell, "%unload_ext nbruntime")
    assert footprint(shell) == before
    assert "not found" in str(failure(shell, "%sgl_servers"))
    assert completions(shell, "%sgl_gen") == []
    run(shell, "%load_ext nbruntime")
    assert ours(shell) == MAGICS


def test_a_magic_of_somebody_else_is_left_alone(shell: InteractiveShell) -> None:
    run(shell, "%load_ext nbruntime")
    shell.register_magic_function(lambda line: "mine", "line", "sgl_info")
    run(shell, "%unload_ext nbruntime")
    assert run(shell, "%sgl_info") == "mine"


def test_loading_is_quick_and_brings_nothing_heavy() -> None:
    code = (
        "import sys, time\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "from traitlets.config import Config\n"
        "shell = InteractiveShell.instance(config=Config({'HistoryManager': {'enabled': False}}))\n"
        "import IPython.display\n"
        "start = time.perf_counter()\n"
        "shell.run_line_magic('load_ext', 'nbruntime')\n"
        "print(time.perf_counter() - start, *sys.modules)\n"
    )
    took = []
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, *modules = ran.stdout.split()
        took.append(float(seconds))
        heavy = {"ipywidgets", "requests", "aiohttp", "transformers", "torch", "matplotlib", "markdown_it"}
        assert heavy & set(modules) == set()
    print(f"load_ext took {min(took) * 1000:.0f} ms at best of {len(took)}")
    assert min(took) < 2  # 0.2 s on a machine that has nothing else to do


def test_configuration_of_the_shell_reaches_the_magics(shell: InteractiveShell) -> None:
    shell.config.SglMagics.view = "plain"
    run(shell, "%load_ext nbruntime")
    assert run(shell, "%config SglMagics.view") == "plain"


def test_tab_knows_the_magics_without_waiting(shell: InteractiveShell) -> None:
    run(shell, "%load_ext nbruntime")
    start = time.perf_counter()
    assert completions(shell, "%%sgl_gen") == ["%%sgl_generate"]
    assert completions(shell, "%sgl_s") == ["%sgl_servers", "%sgl_stop"]
    print(f"completion took {(time.perf_counter() - start) * 1000:.0f} ms")
