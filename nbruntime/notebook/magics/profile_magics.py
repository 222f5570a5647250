"""The magic that records a profile of its cell: ``%%sgl_profile``.

A cell magic gets its cell as text, and could not run one with ``await`` in a kernel's event loop. So an
input transformer replaces the magic's line by a call that starts the recording. IPython runs the rest of the
cell as any other, and the recording ends with the cell.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from IPython.core.magic import magics_class
from IPython.core.magic_arguments import argument
from IPython.display import display

from nbruntime.display.upper_floors import upper_class
from nbruntime.notebook.magics.base import MagicsBase
from nbruntime.notebook.magics.options import HELP, OUT, SERVER, magic

if TYPE_CHECKING:
    from nbruntime.profiling.recording.recorder import Recorder

_FIRST_LINE = re.compile(r"%%sgl_profile(?:[ \t]+(?P<line>.*))?$")

_START = 'get_ipython().magics_manager.registry["SglMagics"].sgl_profile({!r}, "")\n'


@dataclass(slots=True)
class _Recording:
    """A recording of a cell, and how many cells were running when it began: a cell may run another."""

    recorder: Recorder
    depth: int


@magics_class
class ProfileMagics(MagicsBase):
    """The magic that records a profile of its cell."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._recordings: list[_Recording] = []
        self._depth = 0

    @magic(
        "cell",
        SERVER,
        OUT,
        argument("--trace", action="store_true", help="run the server's own profiler, too"),
        argument("--num-steps", type=int, metavar="N", help="steps that the trace holds"),
        argument("--interval", type=float, metavar="SECONDS", help="time between two samples of the load"),
    )
    def sgl_profile(self, arguments: Namespace, names: Mapping[str, Any], cell: str) -> None:
        """Run the cell, and show what it cost: requests, times, load and steps of the server.

        It notes every request to the server, by the cell's threads and tasks, too. The cell may use await.
        -o keeps the Profile in a variable, also if the cell fails or is interrupted.

        Examples::

            %%sgl_profile -o profile
            answers = [endpoint.complete(prompt) for prompt in prompts]
        """
        client = self.servers.find(arguments.server or self.endpoint).endpoint
        given = {
            name: value
            for name in ("num_steps", "interval")
            if (value := getattr(arguments, name)) is not None
        }
        recorder: Recorder = upper_class("recorder")(client, trace=arguments.trace, **given)
        recorder.start()
        self._recordings.append(_Recording(recorder, self._depth))
        if arguments.out:
            self.shell.push({arguments.out: recorder.profile})
        if cell:  # called without the transformer, as by run_cell_magic
            result = self.shell.run_cell(cell)
            self._end_recording(result.error_in_exec)

    def note_cell_begin(self, _info: Any = None) -> None:
        """Note that a cell begins to run."""
        self._depth += 1

    def note_cell_end(self, result: Any = None) -> None:
        """End the recordings of a cell that has run."""
        while self._recordings and self._recordings[-1].depth >= self._depth:
            self._end_recording(getattr(result, "error_in_exec", None))
        self._depth = max(self._depth - 1, 0)

    def _end_recording(self, error: BaseException | None) -> None:
        display(self._recordings.pop().recorder.stop(error))

    def end_recordings(self) -> None:
        """End all recordings, as the extension is unloaded."""
        while self._recordings:
            self._recordings.pop().recorder.stop()


def start_recordings(lines: list[str]) -> list[str]:
    r"""Replace the first line of a cell with the magic: an input transformer of IPython.

    Examples
    --------
    >>> start_recordings(["%%sgl_profile -o p\n", "await work()\n"])[1]
    'await work()\n'
    """
    first = _FIRST_LINE.match(lines[0].rstrip("\r\n")) if len(lines) > 1 else None
    below = next((line for line in lines[1:] if line.strip()), "%%")
    if first is None or below.startswith("%%"):  # IPython runs a cell magic inside of this one
        return lines
    line = first["line"] or ""
    if line.endswith("?"):
        return lines
    cell = [] if set(HELP) & set(line.split()) else lines[1:]
    return [_START.format(line.strip()), *cell]


start_recordings.has_side_effects = True  # type: ignore[attr-defined] # a console waits for the cell's end
