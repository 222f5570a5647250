"""``python -m nbruntime.embedded``: a language model behind SGLang's protocol, on the CPU."""

from __future__ import annotations

import logging
import os
import sys


def main() -> int:
    """Run the server from the command line."""
    # Threads that spin while they wait would starve a busy kernel on the same cores, or be starved by it.
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


if __name__ == "__main__":
    sys.exit(main())
