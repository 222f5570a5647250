"""An IPython shell in the tests' own process, as it is in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@contextmanager
def notebook_shell(folder: Path) -> Iterator[InteractiveShell]:
    """Make the shell of this process, and take it away again."""
    assert not InteractiveShell.initialized()
    quiet = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}})
    shell = InteractiveShell.instance(config=quiet, ipython_dir=str(folder))
    try:
        yield shell
    finally:
        InteractiveShell.clear_instance()


def run(shell: InteractiveShell, code: str) -> Any:
    """Run a cell; an error of the cell is an error of the test."""
    result = shell.run_cell(code)
    result.raise_error()
    return result.result


def failure(shell: InteractiveShell, code: str) -> BaseException:
    """Run a cell that fails, and give its error."""
    result = shell.run_cell(code)
    error: BaseException | None = result.error_in_exec
    assert error is not None, f"no error: {code}"
    return error


def completions(shell: InteractiveShell, text: str) -> list[str]:
    """What Tab offers at the end of a text, each as the whole text that it makes."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return [text[: each.start] + each.text for each in found]
