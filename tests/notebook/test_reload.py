"""Modules that are reloaded, or imported anew: the magics go on, and know their servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.scripted_server import ScriptedServer, cumulative, stream

ROOT = Path(__file__).parents[2]

SET_UP = """
import atexit, importlib, os, sys, time
from pathlib import Path
from support.ipython_shell import notebook_shell, run

url, folder = sys.argv[1:]
at_exit, register = [], atexit.register

def noting(function, *arguments, **options):
    at_exit.append(getattr(function, "__module__", ""))
    return register(function, *arguments, **options)

atexit.register = noting

def modules():
    return [module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] == "nbruntime"]

def hooks(shell):
    events = {event: len(them) for event, them in shell.events.callbacks.items()}
    completer = shell.Completer
    return events, len(completer.custom_matchers), len(completer.magic_arg_matchers)

with notebook_shell(Path(folder, "ipython")) as shell:
    run(shell, f"%load_ext nbruntime\\n%sgl_connect {url} --name main")
    run(shell, f"%sgl_connect {url.replace('127.0.0.1', 'localhost')} --name other")
    run(shell, "%sgl_use main\\n%config SglMagics.view = 'plain'")
    run(shell, "%load_ext autoreload\\n%autoreload 2")
    run(shell, "%%sgl_chat -o answer\\nWhy?")
    run(shell, "from nbruntime import RuntimeEndpoint, Generation; mine = RuntimeEndpoint('" + url + "')")
    run(shell, "from nbruntime.launch import launcher, process, server, attached")
    run(shell, "import nbruntime.notebook.views.panel, nbruntime.runtime")
    before = hooks(shell)
"""

CHECKS = """
    for load in (
        "", "%reload_ext nbruntime", "%unload_ext nbruntime\\n%load_ext nbruntime",
        "import nbruntime; nbruntime.unload_ipython_extension(get_ipython())\\n"
        "nbruntime.load_ipython_extension(get_ipython())",
    ):
        run(shell, load)
        assert hooks(shell) == before, (load, before, hooks(shell))
        run(shell, "%sgl_use")
        run(shell, "%%sgl_chat -o again\\nWhy?")
        run(shell, "%%sgl_generate --endpoint other --template\\n{{answer}}")
        assert run(shell, "%config SglMagics.view") == "plain"
        assert run(shell, "%config SglMagics.endpoint") == "main"
        assert run(shell, "again.text") == "Once upon"
        names = shell.magics_manager.registry["SglMagics"].servers.names()
        assert {"main", "other", "mine"} <= set(names), names
    ours = [module for module in at_exit if module.startswith("nbruntime.")]
    assert len(ours) == len(set(ours)), ours
    assert run(shell, "len(conversation)") == 5
print("passed")
"""

WAYS = {
    "importlib.reload": "    for module in modules(): importlib.reload(module)\n",
    "autoreload": """
    for module in modules():
        with open(module.__file__, "a") as file: file.write("\\n_changed = True\\n")
        os.utime(module.__file__, (time.time() + 100,) * 2)
    run(shell, "1")
    assert modules()[0]._changed
    at_exit.clear()  # a module is emptied before it is reloaded, and does not know that it has hooks
""",
    "imported anew": """
    for module in modules(): del sys.modules[module.__name__]
    import nbruntime.notebook.extension, nbruntime.launch.process
    at_exit.clear()  # the old modules go on beside the new ones
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_reload(way: str, tmp_path: Path) -> None:
    package = tmp_path / "package" / "nbruntime"  # a copy, since autoreload looks at the files' times
    shutil.copytree(ROOT / "nbruntime", package, ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    environment = {**os.environ, "PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT / 'tests'}"}
    with ScriptedServer() as server:
        server.on("/generate", lambda asked: stream(*cumulative(["Once", " upon"], asked.json["rid"])))
        command = [sys.executable, "-c", SET_UP + WAYS[way] + CHECKS, server.url, str(tmp_path)]
        ran = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert ran.stdout.rstrip().endswith("passed"), ran.stdout + ran.stderr
