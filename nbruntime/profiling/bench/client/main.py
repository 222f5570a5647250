"""The client process of a load test: reads a plan, sends its requests, reports their measurements."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import resource
import sys
import threading
import time

import msgspec

from nbruntime.endpoint.settings import Settings
from nbruntime.profiling.bench.client.connections import Connections
from nbruntime.profiling.bench.client.lag import LagMeter
from nbruntime.profiling.bench.client.lines import Lines
from nbruntime.profiling.bench.client.loops import ClosedLoop, Loop, OpenLoop
from nbruntime.profiling.bench.client.prompts import Prompts
from nbruntime.profiling.bench.client.sender import EPOCH, Sender
from nbruntime.profiling.bench.plan import STOP, Began, ClientEnded, ClientPlan, Report
from nbruntime.secrets import Secret

FIGURES_SECONDS = 0.2
"""Seconds between two reports of the counts."""

ORPHAN_SECONDS = 5.0
"""Seconds after the end of the parent in which running requests are aborted."""


class Reporter:
    """Writes reports to stdout in a thread of its own, so that a slow reader does not delay the requests.

    The thread is woken a few times a second only: every time it takes Python's lock from the loop.
    """

    def __init__(self) -> None:
        self._out = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library may print is no report
        self._reports: list[Report] = []
        self._batches: queue.SimpleQueue[list[Report]] = queue.SimpleQueue()
        self._encode = msgspec.json.Encoder().encode
        self._thread = threading.Thread(target=self._write, name="reports", daemon=True)
        self._thread.start()

    def __call__(self, report: Report) -> None:
        """Keep a report for the next `flush`."""
        self._reports.append(report)

    def flush(self) -> None:
        """Write the reports soon."""
        self._batches.put(self._reports)
        self._reports = []

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._batches.put([])
        self._thread.join()

    def _write(self) -> None:
        while batch := self._batches.get():
            lines = b"".join(self._encode(report) + b"\n" for report in batch)
            try:
                while lines:
                    lines = lines[os.write(self._out, lines) :]
            except BrokenPipeError:  # the parent has ended
                os._exit(1)


def main() -> None:
    """Run the plan that stdin holds; ends early when told to, or with its parent."""
    parent = os.getppid()
    stdin = Lines(sys.stdin.fileno())
    plan = msgspec.json.decode(stdin.next(), type=ClientPlan)
    gc.collect()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection for each user
    gc.freeze()  # what is imported is no garbage, and looking through it would delay answers
    reporter = Reporter()
    try:
        asyncio.run(_run(plan, reporter, stdin, parent))
    finally:
        reporter.close()


async def _run(plan: ClientPlan, report: Reporter, stdin: Lines, parent: int) -> None:
    settings = Settings(
        plan.base_url, Secret(plan.api_key), plan.verify, plan.connect_timeout, plan.read_timeout
    )
    connections = Connections(settings)
    sender = Sender(connections, Prompts(plan), plan.timeout, report)
    loop = OpenLoop(plan, sender) if plan.loop == "open" else ClosedLoop(plan, sender)
    _obey(stdin, asyncio.get_running_loop(), loop)
    meter = LagMeter()
    beside = [asyncio.create_task(meter.watch()), asyncio.create_task(_tell(sender, report, parent, loop))]
    try:
        report(Began(EPOCH + time.perf_counter()))
        await loop.run()
        report(sender.figures())
        unreachable = sender.last_error if sender.unreachable else ""
        report(ClientEnded(meter.lag, meter.processor_share, loop.waited, unreachable))
    finally:
        for task in beside:
            task.cancel()
        connections.close()


async def _tell(sender: Sender, report: Reporter, parent: int, loop: Loop) -> None:
    """Report the counts, and see that the parent is alive: a fork of it may keep the pipe open."""
    while True:
        report(sender.figures())
        report.flush()
        await asyncio.sleep(FIGURES_SECONDS)
        if os.getppid() != parent:
            _end_soon()
            loop.stop()
            return


def _obey(stdin: Lines, events: asyncio.AbstractEventLoop, loop: Loop) -> None:
    """Stop when the parent says so, or ends."""

    def listen() -> None:
        if stdin.next() != STOP:
            _end_soon()
        if not events.is_closed():
            events.call_soon_threadsafe(loop.stop)

    threading.Thread(target=listen, name="stdin", daemon=True).start()


def _end_soon() -> None:
    """End in any case, also where the event loop is stuck and stops no request."""
    timer = threading.Timer(ORPHAN_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
