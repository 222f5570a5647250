"""What the embedded server's step log costs, next to the steps that it notes, in one run.

Prints the time to note a step, the median decode step of the default model over HTTP, their ratio, and the
memory and the reading of a full log.

    python benchmarks/step_log.py [--new-tokens 96]
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
import uuid
from types import SimpleNamespace
from typing import Any

from nbruntime import Runtime
from nbruntime.embedded.engine.scheduler import DecodeStep
from nbruntime.embedded.engine.step_log import MOST_STEPS, EngineStepLog
from nbruntime.protocol.step_log import read_step_log, write_step_log

SIZES = (1, 8, 32)
PROMPTS = [f"{number}. Tell me a story about a robot" for number in range(max(SIZES))]
SCHEDULER: Any = SimpleNamespace(waiting=[], cache=SimpleNamespace(used=1234))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--new-tokens", type=int, default=96)
    options = parser.parse_args()
    steps = decode_steps(options.new_tokens)
    print(f"{'batch size':>10}{'note, µs':>10}{'step, ms':>10}{'share':>10}{'log, MiB':>10}{'read, ms':>10}")
    for size in SIZES:
        note, memory, read = cost(size)
        step = steps[size]
        print(
            f"{size:10}{note * 1e6:10.2f}{step * 1e3:10.2f}{note / step:10.4%}"
            f"{memory / 2**20:10.1f}{read * 1e3:10.2f}"
        )


def decode_steps(new_tokens: int) -> dict[int, float]:
    """Return the median seconds of a decode step, by batch size."""
    with Runtime() as runtime:
        for size in SIZES:
            runtime.endpoint.complete(PROMPTS[:size], max_new_tokens=new_tokens, ignore_eos=True)
        log = read_step_log(runtime.endpoint.get("/step_log"))
    return {
        size: statistics.median(
            step.duration for step in log.steps if step.stage == "DECODE" and step.batch_size == size
        )
        for size in SIZES
    }


def cost(size: int) -> tuple[float, float, float]:
    """Return the seconds to note a step, the memory of a full log, and the seconds to read all of it."""
    requests: Any = tuple(SimpleNamespace(rid=uuid.uuid4().hex) for _ in range(size))
    step = DecodeStep(requests)
    tracemalloc.start()
    log = EngineStepLog()
    note(log, step, MOST_STEPS)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    took = min(note(log, step, 2000) for _ in range(20))
    begin, after, more = time.perf_counter(), -1, True
    while more:
        piece = log.read(after)
        write_step_log(piece)
        after, more = piece.steps[-1].number, piece.more
    return took, memory, time.perf_counter() - begin


def note(log: EngineStepLog, step: DecodeStep, count: int) -> float:
    """Note a step many times; return the seconds of each."""
    begin = time.perf_counter()
    for _ in range(count):
        with log.step(step, SCHEDULER):
            pass
    return (time.perf_counter() - begin) / count


if __name__ == "__main__":
    main()
