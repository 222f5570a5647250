"""A client for the HTTP tests of any server of SGLang's protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests


class ServerClient:
    """Sends requests to the server at ``url``, with its ``api_key``; a subclass sets both."""

    url: str
    api_key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        """Send a request with the server's key; a body of str or bytes is sent as it is."""
        headers = {**self.headers, **options.pop("headers", {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            options["data"] = (
                body if isinstance(body, bytes) else _text(body).encode("utf-8", "surrogatepass")
            )
        return requests.request(method, self.url + path, headers=headers, timeout=120, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.request("POST", path, body, **options)

    def generate(self, prompt: Any, *, fields: dict[str, Any] | None = None, **params: Any) -> Any:
        """Return the JSON of an answer; greedy unless `params` say otherwise."""
        answer = self.post("/generate", generate_body(prompt, fields, **params))
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def stream(
        self, prompt: Any, *, fields: dict[str, Any] | None = None, **params: Any
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream and yield its events as they arrive; leaving early closes the connection."""
        body = generate_body(prompt, {"stream": True, **(fields or {})}, **params)
        with self.post("/generate", body, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            yield read_events(answer)

    def events(
        self, prompt: Any, *, fields: dict[str, Any] | None = None, **params: Any
    ) -> list[dict[str, Any]]:
        with self.stream(prompt, fields=fields, **params) as events:
            return list(events)

    def load(self) -> dict[str, Any]:
        """Return the first load of ``/v1/loads``."""
        load: dict[str, Any] = self.get("/v1/loads").json()["loads"][0]
        return load

    def wait_idle(self) -> None:
        wait_until(lambda: not any(self.load()[name] for name in ("num_running_reqs", "num_waiting_reqs")))


def generate_body(prompt: Any, fields: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """Make a body of ``/generate`` from text or token ids; greedy unless `params` say otherwise."""
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    name = "text" if isinstance(first, str) else "input_ids"
    return {name: prompt, "sampling_params": {"temperature": 0, **params}, **(fields or {})}


def read_events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream until its end mark."""
    for line in answer.iter_lines(chunk_size=None):
        if line == b"data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended without its end mark")


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll until `condition` returns true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def _text(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)
