"""Time and memory of `nbruntime.read_trace`, next to `json.load` on the same trace.

The traces are made here in the layout of torch 2.13: one field a line, with shapes; steps, operators, calls
that launch kernels, kernels and the arrows between them, and in the first trace Python functions, too, which
are most of a trace with stacks. Every reading has a process of its own, whose highest memory counts from
before the reading; peer and reader take turns, and every figure is a median. The goals are a fifth of the
time of `json.load` and a sixth of its memory on 80 MB, and less than 2 GB of memory for 1 GB.

    python benchmarks/trace_reader.py [--megabytes 80] [--large 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HEAD = """ {
    "schemaVersion": 1,
    "deviceProperties": [
    {
      "id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 84942979072,
      "computeMajor": 9, "computeMinor": 0, "numSms": 132
    }
  ],
      "record_shapes": 1,
    "displayTimeUnit": "ms",
    "baseTimeNanoseconds": 1790857026000000000,
    "traceEvents": [
    """
TAIL = """],"traceName": "trace.json" }"""
SHAPES = (
    '"Concrete Inputs": ["", "", "", "[8, 64]", "False"], "Input type": ["c10::BFloat16", "c10::BFloat16", '
    '"c10::BFloat16", "ScalarList", "Scalar"], "Input Strides": [[4096, 1], [1, 4096], [1], [], []], '
    '"Input Dims": [[8, 4096], [4096, 6144], [6144], [], []]'
)
OPERATORS = ("aten::linear", "aten::addmm", "aten::mul", "aten::silu", "sgl_kernel::rmsnorm", "aten::copy_")
KERNELS = (
    "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
    "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<c10::BFloat16, "
    "c10::BFloat16, c10::BFloat16, at::native::binary_internal::MulFunctor<float> > >",
    "void flashinfer::BatchPrefillWithPagedKVCacheKernel<flashinfer::KernelTraits<1, 128>, true>(Params)",
)
PYTHON = ("model_runner.py(1833): forward", "torch/nn/modules/module.py(1773): _wrapped_call_impl")


def slice_event(
    category: str, name: str, thread: int, at: int, lasts: int, args: str, process: int = 2625
) -> str:
    """Write an event as Kineto does; times in ns."""
    return (
        f'\n  {{\n    "ph": "X",\n    "cat": "{category}",\n    "name": "{name}",\n    "pid": {process},\n'
        f'    "tid": {thread},\n    "ts": {at // 1000}.{at % 1000:03d},\n    "dur": {lasts // 1000}.'
        f'{lasts % 1000:03d}\n    ,\n    "args": {{\n      {args}\n    }}\n  }}'
    )


def step(number: int, stacks: bool) -> Iterator[str]:
    """Write the events of one step."""
    start = 5100039519173722 + number * 5_000_000
    name = "step[DECODE bs=8]" if number % 8 else "step[EXTEND bs=3 toks=512]"
    yield slice_event("user_annotation", name, 2625, start, 4_800_000, f'"External id": {number}')
    for place in range(60):
        at = start + 1000 + place * 80_000
        serial = number * 60 + place
        if stacks:
            for depth in range(12):
                args = f'"Python parent id": {serial}, "Python id": {serial + depth}, "Ev Idx": {serial}'
                name = PYTHON[depth % 2]
                yield slice_event("python_function", name, 2625, at + depth * 50, 70_000 - depth * 100, args)
        shapes = f'"External id": {serial}, "Record function id": 0, {SHAPES}, "Ev Idx": {serial}'
        yield slice_event("cpu_op", OPERATORS[place % 6], 2625, at + 1000, 60_000, shapes)
        yield slice_event("cpu_op", OPERATORS[(place + 1) % 6], 2625, at + 9000, 30_000, shapes)
        launch = f'"External id": {serial}, "cbid": 211, "correlation": {serial}'
        yield slice_event("cuda_runtime", "cudaLaunchKernel", 2625, at + 12_000, 4_000, launch)
        kernel = (
            f'"External id": {serial}, "queued": 0, "device": 0, "context": 1, "stream": 7, "correlation": '
            f'{serial}, "registers per thread": 32, "shared memory": 0, "blocks per SM": 3.878788, '
            '"warps per SM": 15.515152, "grid": [512, 1, 1], "block": [128, 1, 1], '
            '"est. achieved occupancy %": 24'
        )
        yield slice_event("kernel", KERNELS[place % 3], 7, at + 30_000, 45_000, kernel, process=0)
        yield (
            f'\n  {{\n    "ph": "s", "id": {serial}, "pid": 2625, "tid": 2625, "ts": {at // 1000}.'
            f'{at % 1000:03d},\n    "cat": "ac2g", "name": "ac2g"\n  }}'
        )


def write_trace(path: Path, megabytes: float, *, stacks: bool) -> int:
    """Write a trace of about a size; returns its events."""
    number = events = 0
    with path.open("w") as file:
        written = file.write(HEAD)
        while written < megabytes * 1e6:
            parts = list(step(number, stacks))
            written += file.write(",".join(parts) if number == 0 else "," + ",".join(parts))
            events += len(parts)
            number += 1
        file.write(TAIL)
    return events


def highest_memory() -> float:
    """Highest memory of this process, in MB; unlike that of `resource`, it does not include its parent's."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def read(reader: str, path: Path) -> None:
    """Read a trace in this process; print seconds and MB."""
    if reader == "json.load":
        before, start = highest_memory(), time.perf_counter()
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            trace = json.load(file)
        assert trace["traceEvents"]
    else:
        import nbruntime

        reading = nbruntime.read_trace  # its import is not measured
        before, start = highest_memory(), time.perf_counter()
        assert reading(path).steps
    print(time.perf_counter() - start, highest_memory() - before)


def measured(reader: str, path: Path) -> tuple[float, float]:
    """Read a trace in a process of its own."""
    command = [sys.executable, __file__, "--read", reader, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, result.stdout.split())
    return seconds, megabytes


def compare(path: Path, rounds: int) -> None:
    """Print time and memory of both readers and their ratios."""
    figures: dict[str, list[tuple[float, float]]] = {"json.load": [], "read_trace": []}
    for _ in range(rounds):
        for reader, values in figures.items():
            values.append(measured(reader, path))
    medians = {
        reader: [statistics.median(column) for column in zip(*values, strict=True)]
        for reader, values in figures.items()
    }
    for reader, (seconds, megabytes) in medians.items():
        print(f"  {reader:12} {seconds:7.2f} s  {megabytes:8.1f} MB")
    (peer_seconds, peer_memory), (seconds, memory) = medians.values()
    print(
        f"  read_trace is {peer_seconds / seconds:.1f} times as fast (goal: 5)"
        f" and takes 1/{peer_memory / memory:.1f} of the memory (goal: 1/6)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=80)
    parser.add_argument("--large", type=float, default=1000, help="size of the large trace in MB; 0 for none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", nargs=2, metavar=("READER", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read[0], Path(options.read[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for stacks in (True, False):
            path = Path(folder) / "run-TP-0.trace.json"
            events = write_trace(path, options.megabytes, stacks=stacks)
            kind = "with" if stacks else "without"
            print(f"{options.megabytes:g} MB {kind} stacks, {events:,} events")
            compare(path, options.rounds)
            packed = path.with_suffix(".json.gz")
            with path.open("rb") as source, gzip.open(packed, "wb", compresslevel=5) as sink:
                while block := source.read(1 << 20):
                    sink.write(block)
            print(f"the same as .gz, {packed.stat().st_size / 1e6:.1f} MB")
            compare(packed, options.rounds)
            packed.unlink()
        if options.large:
            events = write_trace(path, options.large, stacks=False)
            seconds, memory = measured("read_trace", path)
            print(
                f"{options.large:g} MB without stacks, {events:,} events: {seconds:.1f} s,"
                f" {memory:,.0f} MB of memory (goal: 2,000)"
            )


if __name__ == "__main__":
    main()
