"""What it costs to record a profile: the client's CPU time, and the tokens per second of the embedded server.

First a server process that writes as fast as the client reads, so that the client's CPU time is all there
is: the worst case for noting requests. A round is the same requests without and with a profile around them,
in turns; the samples of the server's load are counted, too. Then the embedded server with its model: without
a profile, with one, and with one that runs the profiler. Every figure is a median over the rounds, also the
ratio to the plain requests of the same round; 1.00 costs nothing.

    python benchmarks/profiling.py [--tokens 64] [--requests 100] [--rounds 31] [--traced-rounds 5]
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


def costs(
    work: Work, around: dict[str, Any], rounds: int, clock: Callable[[], float]
) -> dict[str, tuple[float, float]]:
    """Let the contexts take turns around the work; return the time of each, and the share of the first one's.

    The first context is that of the plain work.
    """
    spent: dict[str, list[float]] = {name: [] for name in around}
    for number in range(rounds + 1):
        turns = list(around) if number % 2 else list(reversed(around))
        for name in turns:
            with around[name]():
                before = clock()
                work()
                if number:  # the first round warms up
                    spent[name].append(clock() - before)
    plain = next(iter(spent.values()))
    return {
        name: (
            statistics.median(times),
            statistics.median(first / own for first, own in zip(plain, times, strict=True)),
        )
        for name, times in spent.items()
    }


def noting(tokens: int, count: int, rounds: int) -> None:
    """Print what noting requests costs the client."""
    print(f"{count} streams of {tokens} tokens in 4 threads, CPU time of the client, {rounds} rounds")
    with quick_server(tokens) as url, RuntimeEndpoint(url) as endpoint, ThreadPoolExecutor(4) as pool:

        def read(_: int) -> str:
            with endpoint.stream("x") as stream:
                return "".join(stream)

        def work() -> None:
            list(pool.map(read, range(count)))

        around = {"plain": contextlib.nullcontext, "profile": endpoint.profile}
        found = costs(work, around, rounds, time.process_time)
    for name, (spent, ratio) in found.items():
        print(f"  {name:16} {count * tokens / spent:9,.0f} tokens per CPU second   {ratio:5.3f} of plain")


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
        found = costs(work, around, rounds, time.perf_counter)
        sizes = [path.stat().st_size for path in Path(folder).iterdir()]
    for name, (spent, ratio) in found.items():
        print(f"  {name:16} {4 * tokens / spent:9,.1f} tokens/s   {ratio:5.2f} of plain")
    print(f"  a trace has {statistics.median(sizes) / 1e6:.1f} MB for about {tokens} steps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--traced-rounds", type=int, default=5)
    arguments = parser.parse_args()
    noting(arguments.tokens, arguments.requests, arguments.rounds)
    on_the_embedded_server(arguments.tokens, arguments.traced_rounds)


if __name__ == "__main__":
    main()
