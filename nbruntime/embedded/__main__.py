"""``python -m nbruntime.embedded``: a language model behind SGLang's protocol, on the CPU."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn


def main() -> int:
    """Run the server from the command line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # until the server handles signals
    # Threads that spin while they wait compete with the notebook kernel for the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from nbruntime.embedded.arguments import parse_arguments

    arguments = parse_arguments()
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="[%(asctime)s] %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    print("phase: starting", flush=True)
    from nbruntime.embedded.server import run

    return run(arguments)


def end(code: int) -> NoReturn:
    """End the process at once: freeing a model object by object takes seconds."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    end(main())
