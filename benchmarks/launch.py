"""What a server's life costs, and what `Runtime.generate` costs over a bare POST.

The server is a trivial one that answers at once, so that only nbruntime's own share is measured. The goals:
launch and shutdown through the supervisor together at most 0.25 s, `Runtime.generate` at most 2 ms more
than a bare POST over a kept connection.

    python benchmarks/launch.py [--launches 15] [--requests 300]
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbruntime.launch.engines import resolve as engines
from nbruntime.launch.engines.server_kind import AcceptedArguments, ServerKind
from nbruntime.launch.phases import Phase, phase_of
from nbruntime.launch.ports import PortClaim
from nbruntime.launch.process import ServerProcess
from nbruntime.launch.readiness import http_status
from nbruntime.launch.supervisor.launch_spec import LaunchSpec
from nbruntime.runtime import Runtime

LIFE_GOAL = 0.25
REQUEST_GOAL = 2e-3

SERVER = """
import json, socket, socketserver, sys
meta = {"id": "x", "prompt_tokens": 1, "completion_tokens": 1}
answer = {"text": " Paris.", "output_ids": [1], "meta_info": meta}
info = {"model_path": "trivial", "tokenizer_path": "trivial", "is_generation": True}
class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    def handle(self):
        while line := self.rfile.readline():
            size = 0
            while (header := self.rfile.readline().strip().lower()):
                if header.startswith(b"content-length:"):
                    size = int(header[15:])
            self.rfile.read(size)
            body = json.dumps(answer if line.startswith(b"POST") else info).encode()
            head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
            self.wfile.write(head % len(body) + body)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
print("phase: ready", flush=True)
server.serve_forever()
"""


class TrivialEngine(ServerKind):
    """A server that answers every request at once."""

    name = "trivial"
    takes_listener = True
    watch = "^phase: "
    probe_interval = 1.0

    def accept(self, arguments: Mapping[str, Any]) -> AcceptedArguments:
        """Take whatever comes."""
        return AcceptedArguments({}, (), {})

    def command(self, arguments: AcceptedArguments, claim: PortClaim) -> LaunchSpec:
        """Start it with the claimed socket."""
        assert claim.listener is not None
        argv = (sys.executable, "-I", "-S", "-c", SERVER, str(claim.listener.fileno()))
        return LaunchSpec(argv, pass_fds=(claim.listener.fileno(),), watch=self.watch)

    def read_phase(self, line: str) -> Phase | None:
        """Read ``phase: ready``."""
        return phase_of(line)

    def is_ready(self, url: str, timeout: float) -> bool:
        """Ask for any page."""
        return http_status(f"{url}/health", timeout) == 200


def seconds_of(what: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = what()
    return time.perf_counter() - began, result


def process_lives(count: int) -> list[float]:
    """Start and stop a process that does nothing: the supervisor's own share."""
    command = LaunchSpec((sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"))
    return [seconds_of(lambda: ServerProcess(command).stop())[0] for _ in range(count)]


def lives(count: int) -> tuple[list[float], list[float]]:
    launches, shutdowns = [], []
    for _ in range(count):
        launched, runtime = seconds_of(lambda: Runtime(engine="trivial", port=0, progress=lambda phase: None))
        launches.append(launched)
        shutdowns.append(seconds_of(runtime.shutdown)[0])
    return launches, shutdowns


def requests(runtime: Runtime, count: int) -> tuple[list[float], list[float]]:
    """Take bare posts and calls in turns."""
    connection = http.client.HTTPConnection("127.0.0.1", runtime.port)
    body = json.dumps({"text": "The capital of France is", "sampling_params": {"temperature": 0}})

    def post() -> Any:
        connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    bare, calls = [], []
    for _ in range(count):
        bare.append(seconds_of(post)[0])
        calls.append(seconds_of(lambda: runtime.generate("The capital of France is", {"temperature": 0}))[0])
    connection.close()
    return bare, calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=15)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    engines.EXTRA_ENGINES["trivial"] = TrivialEngine
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # a registry of its own
        Path(folder).chmod(0o700)
        process_lives(1)  # brings the files into memory
        process = statistics.median(process_lives(options.launches))
        launches, shutdowns = lives(options.launches)
        launch, shutdown = statistics.median(launches), statistics.median(shutdowns)
        again = {"engine": "trivial", "port": 0, "reuse": True, "progress": lambda phase: None}
        with Runtime(**again) as runtime:
            reuse = statistics.median(
                seconds_of(lambda: Runtime(**again))[0] for _ in range(options.launches)
            )
            bare, calls = map(statistics.median, requests(runtime, options.requests))
    print(f"median of {options.launches} launches, {options.requests} requests")
    print(f"  a process that does nothing, start and stop {process * 1e3:8.1f} ms")
    print(f"  Runtime of a trivial server, launch         {launch * 1e3:8.1f} ms")
    print(f"  shutdown                                    {shutdown * 1e3:8.1f} ms")
    print(
        f"  both (goal: at most {LIFE_GOAL * 1e3:.0f} ms)               {(launch + shutdown) * 1e3:8.1f} ms"
    )
    print(f"  Runtime with reuse=True, handed back        {reuse * 1e3:8.1f} ms")
    print(f"  bare POST                                   {bare * 1e3:8.2f} ms")
    print(f"  Runtime.generate                            {calls * 1e3:8.2f} ms")
    print(
        f"  over it (goal: at most {REQUEST_GOAL * 1e3:.0f} ms)              {(calls - bare) * 1e3:8.2f} ms"
    )


if __name__ == "__main__":
    main()
