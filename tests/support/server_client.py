"""A server of SGLang's protocol as tests talk to it, whichever it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests


class HttpFace:
    """The requests that tests send to a server.

    A subclass has its ``url``, and its ``api_key`` if it has one.
    """

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
        """Generate greedily, unless `params` say otherwise, and give the answer's JSON."""
        answer = self.post("/generate", generate_body(prompt, fields, **params))
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def stream(
        self, prompt: Any, *, fields: dict[str, Any] | None = None, **params: Any
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream and give its events as they come; leaving early closes the connection."""
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
        """What the server is doing, from ``/v1/loads``."""
        load: dict[str, Any] = self.get("/v1/loads").json()["loads"][0]
        return load

    def wait_idle(self) -> None:
        wait_until(lambda: not any(self.load()[name] for name in ("num_running_reqs", "num_waiting_reqs")))


def generate_body(prompt: Any, fields: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """A body of ``/generate``: text or token ids, one or several; greedy unless `params` say otherwise."""
    first = prompt[0] if isinstance(prompt, list) and prompt else prompt
    name = "text" if isinstance(first, str) else "input_ids"
    return {name: prompt, "sampling_params": {"temperature": 0, **params}, **(fields or {})}


def read_events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream, until its end mark."""
    for line in answer.iter_lines(chunk_size=None):
        if line == b"data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended without its end mark")


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that only asking tells."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def _text(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)
