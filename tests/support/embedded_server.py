"""The embedded server as a process of its own, for tests that speak HTTP with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from nbruntime.protocol.server_arguments import ADMIN_API_KEY_VARIABLE, API_KEY_VARIABLE
from support.server_client import ServerClient

PROMPT = "The capital of France is"
STORY = "Once upon a time there was a little robot who wanted to learn how to paint. "
CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
LONG = "".join(f"{number}. {STORY}" for number in range(1, 31))
"""More than two chunks of prefill."""

WITNESS_TOKENS = 90

START_SECONDS = 280
"""Time to start, with the model's download."""


class EmbeddedServer(ServerClient):
    """A running ``python -m nbruntime.embedded`` on a free port."""

    def __init__(self, *flags: str, api_key: str | None = None, admin_api_key: str | None = None) -> None:
        keys = {API_KEY_VARIABLE: api_key, ADMIN_API_KEY_VARIABLE: admin_api_key}
        environment = {name: value for name, value in os.environ.items() if name not in keys}
        environment |= {name: value for name, value in keys.items() if value is not None}
        self.api_key, self.admin_api_key = api_key, admin_api_key
        self.lines: list[str] = []
        self._printed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nbruntime.embedded", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self.lines.append(line.rstrip("\n"))
                self._printed.notify_all()
        with self._printed:
            self.lines.append("(end of output)")
            self._printed.notify_all()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait for a line that matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._printed:
            self._printed.wait_for(lambda: found() or "(end of output)" in self.lines, seconds)
        match = found()
        assert match is not None, f"no {pattern!r} in the server's output:\n{self.log}"
        return match

    def ready(self) -> EmbeddedServer:
        self.wait_for(r"phase: ready")
        return self

    @property
    def url(self) -> str:
        return self.wait_for(r"listening on (http://\S+)")[1]

    def close(self) -> tuple[int, float]:
        """Ask the server to end; give its exit code and how long it took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(10)
        took = time.monotonic() - began
        self._reader.join(10)
        return code, took


@contextmanager
def witness(server: EmbeddedServer, alone: str) -> Iterator[None]:
    """Read a stream during the block; its text must be that of an undisturbed one."""
    with server.stream(PROMPT, max_new_tokens=WITNESS_TOKENS, ignore_eos=True) as events:
        next(events)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(list, events)
            yield
            assert rest.result()[-1]["text"] == alone
