"""The supervisor as a program: reads its order from stdin and carries it out."""

from __future__ import annotations

import json
import os
import sys

if not __package__:  # run by its file name: then this folder is a package of its own
    # At the end, where it cannot stand in for a module of the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "supervisor"

from .launch_spec import LaunchSpec
from .supervisor import Supervisor


def main() -> None:
    """Read the order from stdin and carry it out."""
    line = b""
    while not line.endswith(b"\n"):
        # No buffered reader: what follows the order belongs to the lifeline.
        byte = os.read(0, 1)
        if not byte:
            return  # the owner went before it had said what to do
        line += byte
    Supervisor(LaunchSpec(**json.loads(line)), lifeline=0, events=1).run()


if __name__ == "__main__":
    main()
