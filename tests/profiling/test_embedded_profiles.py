"""Profiles of the embedded server: the bottleneck is named, and the clocks agree."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.embedded_server import STORY, EmbeddedServer

from nbruntime import RuntimeEndpoint, errors
from nbruntime.profiling.profile import Profile

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def endpoint(server: EmbeddedServer) -> Iterator[RuntimeEndpoint]:
    with RuntimeEndpoint(server.url) as made:
        made.complete("Warm up.", max_new_tokens=2)
        yield made


def together(*calls: Callable[[], Any]) -> None:
    """Make calls at once, and wait for all."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


def streamed(endpoint: RuntimeEndpoint, prompt: str, tokens: int) -> None:
    for _ in endpoint.stream(prompt, max_new_tokens=tokens, ignore_eos=True, temperature=0):
        pass


def said(profile: Profile) -> str:
    text = str(profile.summary())
    print(text.replace(". ", ".\n"))
    return text


def test_short_requests_wait_behind_a_long_prompt(endpoint: RuntimeEndpoint, server: EmbeddedServer) -> None:
    endpoint.flush_cache()
    with endpoint.profile() as profile:
        first = threading.Thread(target=streamed, args=(endpoint, STORY * 20, 2))
        first.start()
        wait_for_running(server)
        together(*(lambda n=n: streamed(endpoint, f"{n} apples", 2) for n in range(3)))
        first.join(120)
    text = said(profile)
    (long,) = [each for each in profile.requests if each.prompt_tokens > 200]
    assert text.startswith("Prefill was the bottleneck: ")
    assert "3 of 4 requests waited" in text
    assert f"behind one of {long.prompt_tokens} tokens" in text


def wait_for_running(server: EmbeddedServer) -> None:
    deadline = time.monotonic() + 30
    while not server.load()["num_running_reqs"]:
        assert time.monotonic() < deadline


def test_requests_one_after_the_other(endpoint: RuntimeEndpoint) -> None:
    with endpoint.profile() as profile:
        for n in range(3):
            streamed(endpoint, f"{n} pears", 8)
    text = said(profile)
    assert "Decode was the bottleneck: " in text
    assert "A decode step held 1.0 requests on average" in text


def test_a_client_that_thinks_between_its_requests(endpoint: RuntimeEndpoint) -> None:
    with endpoint.profile() as profile:
        for n in range(2):
            began = time.monotonic()
            streamed(endpoint, f"{n} plums", 4)
            if not n:
                time.sleep(max(4 * (time.monotonic() - began), 3))
    text = said(profile)
    assert text.startswith("The server was idle for ")
    assert "The client was the limit: for " in text


def test_cache_hits_and_failures(endpoint: RuntimeEndpoint) -> None:
    streamed(endpoint, STORY * 20, 1)
    with endpoint.profile() as profile:
        streamed(endpoint, STORY * 20, 4)
        with pytest.raises(errors.BadRequestError):
            endpoint.complete(STORY * 600, max_new_tokens=1)  # longer than the model's context
    text = said(profile)
    assert "prompts came from the cache." in text
    assert "1 of 2 requests failed: BadRequestError." in text
    assert profile.figures.failed == 1


def test_the_timeline_of_a_traced_run(endpoint: RuntimeEndpoint, tmp_path: Path) -> None:
    with endpoint.profile(trace=True, output_dir=str(tmp_path), with_stack=False) as profile:
        together(*(lambda n=n: streamed(endpoint, f"{n} cherries", 6) for n in range(3)))
    path = profile.timeline(tmp_path / "all.json.gz")
    assert profile.trace is not None
    timeline = json.loads(gzip.decompress(path.read_bytes()))
    events = timeline["traceEvents"]
    assert sum(event.get("cat") == "request" for event in events) == 3
    assert sum(event.get("cat") == "cpu_op" for event in events) == profile.trace.events.of("cpu_op").sum()
    steps = np.array([event["ts"] for event in events if event.get("cat") == "step"])
    spans = [event["ts"] for event in events if event["name"].startswith("step[")]
    apart = [float(np.min(np.abs(steps - span))) for span in spans]
    print(f"{len(spans)} steps of the trace, {np.median(apart):.0f} µs from those of the log at the median")
    assert len(spans) >= 5
    assert np.median(apart) < 1000
    loaded = Profile.load(profile.save(tmp_path / "profile.json.gz"))
    assert loaded == profile
    assert loaded.summary() == profile.summary()
