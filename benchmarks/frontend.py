"""Programs of SGLang's frontend language, against requests that ask the server for the same work at once.

Two ratios: ``sgl.select`` over 10 choices to one batched request that scores the same texts, and the
throughput of ``run_batch`` over 64 programs to one batched ``/generate`` of the same prompts.

    python benchmarks/frontend.py [--rounds 5] [--url URL]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import sglang as sgl

from nbruntime import Runtime, RuntimeEndpoint

STORY = (
    "A traveller asks for the way to the old harbour. The keeper of the inn thinks for a while, looks out of "
    "the window at the rain, and counts on the fingers of one hand what lies between here and there. "
)
CHOICES = [" north", " south", " east", " west", " left", " right", " up", " down", " across", " not at all"]
PROGRAMS = 64
NEW_TOKENS = 16

State = Any


@sgl.function
def choose(s: State, story: str) -> None:
    s += story + "So he says: go" + sgl.select("way", choices=CHOICES)


@sgl.function
def count(s: State, number: int) -> None:
    s += f"{number}. The traveller says to the keeper:" + sgl.gen(
        "words", max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True
    )


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def selecting(endpoint: RuntimeEndpoint, number: int) -> tuple[float, float]:
    """Time a select, and one request that scores the same texts; the story is new to both."""
    story = f"Number {number}. {STORY}"
    prompt = f"{story}So he says: go"

    def select() -> None:
        choose.run(story=story).sync()

    def score() -> None:
        # From where the choices begin: what a client asks that knows it beforehand.
        start = len(tokens) - 1
        endpoint.complete(
            [prompt + choice for choice in CHOICES],
            max_new_tokens=0,
            return_logprob=True,
            logprob_start_len=start,
        )

    tokens = endpoint.tokenize(prompt)
    took = {}
    for work in (select, score) if number % 2 else (score, select):
        endpoint.flush_cache()
        took[work.__name__] = seconds(work)
    return took["select"], took["score"]


def batching(endpoint: RuntimeEndpoint, number: int) -> tuple[float, float]:
    """Time 64 programs, and one request for the same texts."""
    numbers = [number * PROGRAMS + place for place in range(PROGRAMS)]

    def run_batch() -> None:
        for state in count.run_batch([{"number": each} for each in numbers]):
            assert state.error() is None

    def batch() -> None:
        endpoint.complete(
            [f"{each}. The traveller says to the keeper:" for each in numbers],
            max_new_tokens=NEW_TOKENS,
            temperature=0,
            ignore_eos=True,
        )

    took = {}
    for work in (run_batch, batch) if number % 2 else (batch, run_batch):
        endpoint.flush_cache()
        took[work.__name__] = seconds(work)
    return took["run_batch"], took["batch"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=100, help="after which no further round begins")
    parser.add_argument("--url", help="of a server that runs; else one is started")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.url:
            endpoint = stack.enter_context(RuntimeEndpoint(options.url))
        else:
            endpoint = stack.enter_context(Runtime()).endpoint
        sgl.set_default_backend(endpoint)
        selects, batches = [], []
        selecting(endpoint, 1000)  # to warm up
        deadline = time.monotonic() + options.seconds
        for number in range(options.rounds):
            selects += [selecting(endpoint, 2 * number), selecting(endpoint, 2 * number + 1)]
            batches.append(batching(endpoint, number))
            if time.monotonic() > deadline:
                break
    # The best of all rounds: what else the machine does only makes times longer.
    select, score = (min(column) for column in zip(*selects, strict=True))
    programs, batch = (min(column) for column in zip(*batches, strict=True))
    tokens = PROGRAMS * NEW_TOKENS
    model = os.path.basename(endpoint.get_model_name())
    print(f"{model}, {os.cpu_count()} processors; best of {len(batches)} rounds")
    print(f"select over {len(CHOICES)} choices  {select * 1000:8.0f} ms")
    print(f"one batched scoring    {score * 1000:8.0f} ms")
    print(f"  ratio: {select / score:.2f} of its time (goal: at most 1.3)")
    print(f"run_batch, {PROGRAMS} programs {tokens / programs:8.0f} tokens/s")
    print(f"one batched /generate  {tokens / batch:8.0f} tokens/s")
    print(f"  ratio: {batch / programs:.2f} of its throughput (goal: at least 0.9)")


if __name__ == "__main__":
    main()
