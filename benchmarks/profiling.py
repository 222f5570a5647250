"""What it costs to record a profile: the client's CPU time, and the tokens per second of the embedded server.

First a server process that writes as fast as the client reads, so that the client's CPU time is all there
is: the worst case for noting requests. A round is the same requests without and with a profile around them,
in turns; the samples of the server's load are counted, too. Then the embedded server with its model: without
a profile, with one, and with one that runs the profiler. Every figure is a median, every ratio that of
the medians of one run; 1.00 costs nothing.

    python benchmarks/profiling.py [--tokens 64] [--requests 400] [--rounds 9] [--traced-rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streaming_client import serve

from nbruntime import Runtime
from nbruntime.endpoint import RuntimeEndpoint

Work = Callable[[], object]


@contextmanager
def quick_server(tokens: int) -> Iterator[str]:
    """Run a server that writes the same stream to everybody."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(tokens, False, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def costs(work: Work, around: list[Any], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Let the contexts take turns around the work; return the median time of each, by the clock."""
    spent: list[list[float]] = [[] for _ in around]
    for number in range(rounds + 1):
        for make, times in zip(around, spent, strict=True):
            with make():
                before = clock()
                work()
                if number:  # the first round warms up
                    times.append(clock() - before)
    return [statistics.median(times) for times in spent]


def noting(tokens: int, count: int, rounds: int) -> None:
    """Print what noting requests costs the client."""
    print(f"{count} streams of {tokens} tokens in 4 threads, CPU time of the client, {rounds} rounds")
    with quick_server(tokens) as url, RuntimeEndpoint(url) as endpoint, ThreadPoolExecutor(4) as pool:

        def read(_: int) -> str:
            with endpoint.stream("x") as stream:
                return "".join(stream)

        def work() -> None:
            list(pool.map(read, range(count)))

        plain, noted = costs(work, [contextlib.nullcontext, endpoint.profile], rounds, time.process_time)
    for name, spent in (("plain", plain), ("profile", noted)):
        rate = count * tokens / spent
        print(f"  {name:16} {rate:9,.0f} tokens per CPU second   {plain / spent:5.3f} of plain")


def on_the_embedded_server(tokens: int, rounds: int) -> None:
    """Print what a profile costs where a model runs."""
    print(f"embedded server: 4 streams of {tokens} tokens at once, {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, Runtime(engine="embedded", progress=False) as runtime:
        endpoint = runtime.endpoint

        def read(number: int) -> object:
            options = {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}
            return endpoint.stream(f"Story {number}: once upon a time", **options).result()

        def work() -> None:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(read, range(4)))

        def traced() -> Any:
            return endpoint.profile(trace=True, output_dir=folder, num_steps=100_000)

        around = {"plain": contextlib.nullcontext, "profile": endpoint.profile, "profile, trace": traced}
        times = costs(work, list(around.values()), rounds, time.perf_counter)
        sizes = [path.stat().st_size for path in Path(folder).iterdir()]
    for name, spent in zip(around, times, strict=True):
        print(f"  {name:16} {4 * tokens / spent:9,.1f} tokens/s   {times[0] / spent:5.2f} of plain")
    print(f"  a trace has {statistics.median(sizes) / 1e6:.1f} MB for about {tokens} steps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--traced-rounds", type=int, default=5)
    arguments = parser.parse_args()
    noting(arguments.tokens, arguments.requests, arguments.rounds)
    on_the_embedded_server(arguments.tokens, arguments.traced_rounds)


if __name__ == "__main__":
    main()
