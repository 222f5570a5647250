"""The supervisor as a program: reads its launch spec from stdin and runs."""

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
    """Read the launch spec from stdin and run the supervisor."""
    line = b""
    while not line.endswith(b"\n"):
        # No buffered reader: what follows the spec belongs to the lifeline.
        byte = os.read(0, 1)
        if not byte:
            return  # the owner ended before it sent the spec
        line += byte
    Supervisor(LaunchSpec(**json.loads(line)), lifeline=0, events=1).run()


if __name__ == "__main__":
    main()
