"""The embedded server against ``transformers.generate`` in float32, in one run on one machine.

Prints tokens per second for one stream and for eight requests at once (over HTTP), their ratios to
transformers' own, the time from ``Runtime()`` to ready, and the server's memory.

    python benchmarks/embedded_server.py [--rounds 3] [--new-tokens 128]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from nbruntime import Runtime

QUESTION = "Explain in a few sentences how a steam engine works and why it mattered to the people of its time"
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="after which no further round begins")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="auto", help="of the embedded server")
    options = parser.parse_args()
    begin = time.monotonic()
    runtime = Runtime(dtype=options.dtype)
    ready = time.monotonic() - begin
    speeds: dict[tuple[str, int], list[float]] = {
        (who, n): [] for who in ("ours", "theirs") for n in (1, BATCH)
    }
    prefill = []
    try:
        with Peer(str(runtime.endpoint.model_info["tokenizer_path"]), options.new_tokens) as peer:
            # In turns: the machine's speed drifts, and the one that waits takes no processor.
            for number in range(options.rounds):
                if number and time.monotonic() - begin > options.seconds:
                    print(f"{number} rounds, in {time.monotonic() - begin:.0f} s")
                    break
                for count in (1, BATCH):
                    speeds["ours", count].append(ours(runtime, count, options.new_tokens, number))
                    speeds["theirs", count].append(peer.speed(count))
                prefill.append(prefill_speed(runtime, number))
        memory, peak = memory_of(runtime.endpoint.base_url)
    finally:
        runtime.shutdown()
    begin = time.monotonic()
    Runtime(dtype=options.dtype).shutdown()
    again = time.monotonic() - begin
    print(f"{'':34}{'embedded':>10}{'transformers':>14}{'ratio':>8}")
    for name, count in (("one stream, tokens/s", 1), (f"{BATCH} at once, tokens/s", BATCH)):
        a, b = (statistics.median(speeds[who, count]) for who in ("ours", "theirs"))
        print(f"{name:34}{a:10.1f}{b:14.1f}{a / b:8.2f}")
    print(f"{'prefill of 872 tokens, tokens/s':34}{statistics.median(prefill):10.0f}")
    print(f"{'Runtime() to ready, s':34}{ready:10.1f}")
    print(f"{'Runtime() and shutdown again, s':34}{again:10.1f}")
    print(f"{'resident memory, MB (peak)':34}{memory:10.0f}{f'({peak:.0f})':>14}")


def prompt(number: int) -> str:
    """Make a prompt of about 30 tokens that shares no prefix with others."""
    return f"Question {number}: {QUESTION}, please? Answer:"


def ours(runtime: Runtime, count: int, new_tokens: int, round_: int) -> float:
    """Measure tokens per second over HTTP."""

    def ask(number: int) -> int:
        answer = runtime.endpoint.complete(
            prompt(100 * round_ + 10 * count + number),
            temperature=0,
            max_new_tokens=new_tokens,
            ignore_eos=True,
        )
        return int(answer.completion_tokens)  # type: ignore[union-attr]

    with ThreadPoolExecutor(count) as pool:
        begin = time.monotonic()
        tokens = sum(pool.map(ask, range(count)))
        return tokens / (time.monotonic() - begin)


def prefill_speed(runtime: Runtime, round_: int) -> float:
    """Measure prompt tokens per second."""
    ids = [(7 * round_ + 31 * position) % 40_000 + 100 for position in range(872)]
    begin = time.monotonic()
    runtime.endpoint.complete(ids, temperature=0, max_new_tokens=1)
    return len(ids) / (time.monotonic() - begin)


def memory_of(url: str) -> tuple[float, float]:
    """Find the server that listens at `url` and give its resident memory and its peak, in MB."""
    import psutil

    port = int(url.rsplit(":", 1)[1])
    pid = next(
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid
    )
    server = max(
        (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)),
        key=lambda process: process.memory_info().rss,
    )
    status = Path(f"/proc/{server.pid}/status").read_text()
    values = {
        line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.startswith("Vm")
    }
    return values["VmRSS"] / 1024, values["VmHWM"] / 1024


class Peer:
    """``transformers.generate`` in a process of its own.

    Parameters
    ----------
    folder : str
        The model.
    new_tokens : int
        To generate for each prompt.
    """

    def __init__(self, folder: str, new_tokens: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve_generate, args=(theirs, folder, new_tokens))

    def __enter__(self) -> Peer:
        self._process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def speed(self, count: int) -> float:
        """Measure tokens per second for a batch of `count` prompts."""
        self._pipe.send(count)
        speed: float = self._pipe.recv()
        return speed


def serve_generate(pipe: Connection, folder: str, new_tokens: int) -> None:
    """Measure ``generate`` in float32 for each batch size that comes, until None comes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def speed(count: int) -> float:
        inputs = tokenizer([prompt(number) for number in range(count)], return_tensors="pt", padding=True)
        begin = time.monotonic()
        model.generate(
            **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
        return count * new_tokens / (time.monotonic() - begin)

    speed(1)  # the first call is slower
    while (count := pipe.recv()) is not None:
        pipe.send(speed(count))


if __name__ == "__main__":
    # For the peer, which inherits it: spinning threads are slow wherever another process wants a core.
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    main()
