"""Many servers behind one URL: our clients and SGLang's own router over two embedded servers."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from support.clients import KINDS, Async, Blocking, connected
from support.embedded_server import EmbeddedServer
from support.server_client import wait_until
from support.sglang_server import ENVIRONMENT, PYTHON

from nbruntime import RuntimeEndpoint
from nbruntime.errors import AuthenticationError, NotFoundError, ServerStatusError
from nbruntime.notebook.views.panel import ServerPanel

pytestmark = pytest.mark.sglang

KEY = "sk-workers"

START_SECONDS = 120
"""The router itself is quick; its launcher imports all of SGLang."""


class Router:
    """SGLang's router over two embedded servers that want a key."""

    def __init__(self, workers: list[EmbeddedServer], url: str) -> None:
        self.workers = workers
        self.url = url

    def running(self) -> int:
        return sum(worker.load()["num_running_reqs"] for worker in self.workers)

    def answered(self) -> list[int]:
        """How many requests each worker has answered."""
        lines = [worker.get("/metrics").text.splitlines() for worker in self.workers]
        counts = [[line for line in each if line.startswith("sglang:num_requests_total{")] for each in lines]
        return [int(float(each[0].split()[-1])) if each else 0 for each in counts]


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    log = tmp_path_factory.mktemp("router") / "router.log"
    with ExitStack() as stack:
        workers = []
        for _ in range(2):
            worker = EmbeddedServer("--dtype", "float32", "--enable-metrics", api_key=KEY)
            stack.callback(worker.close)
            workers.append(worker)
        ports = _free_ports(2)
        urls = [worker.ready().url for worker in workers]
        output = stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            [
                *(PYTHON, "-m", "sglang_router.launch_router", "--worker-urls", *urls),
                *("--host", "127.0.0.1", "--port", str(ports[0]), "--prometheus-port", str(ports[1])),
                *("--policy", "cache_aware", "--api-key", KEY),
                *("--health-check-interval-secs", "1", "--health-failure-threshold", "1"),
            ],
            env=os.environ | ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stack.callback(_end, process)
        url = f"http://127.0.0.1:{ports[0]}"
        began = time.monotonic()
        wait_until(lambda: _is_ready(process, url, log), START_SECONDS)
        print(f"the router was ready after {time.monotonic() - began:.1f} s")
        yield Router(workers, url)


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, router: Router) -> Iterator[Blocking | Async]:
    with connected(request.param, router.url, api_key=KEY) as driver:
        yield driver


def test_the_router_looks_like_one_server(client: Blocking | Async) -> None:
    assert client.call("health")
    assert "SmolLM2-135M-Instruct" in client.call("get_model_name")
    assert client.call("models")[0]["id"] == "SmolLM2-135M-Instruct"
    assert client.call("get_server_info")["workers_count"] == 2
    loads = client.call("loads")
    assert [load.dp_rank for load in loads] == [0, 1]
    assert all(load.raw["is_healthy"] for load in loads)


def test_a_prefix_stays_with_the_worker_that_has_it(client: Blocking | Async, router: Router) -> None:
    prompt = f"The capital of France is, as a {client.kind} client asks,"
    before = router.answered()
    answers = [client.call("complete", prompt, temperature=0, max_new_tokens=4) for _ in range(4)]
    gained = [now - then for now, then in zip(router.answered(), before, strict=True)]
    print(f"answers of each worker: {gained}, cached: {[answer.cached_tokens for answer in answers]}")
    assert sorted(gained) == [0, 4]
    assert len({answer.text for answer in answers}) == 1
    assert all(answer.cached_tokens == answer.prompt_tokens - 1 for answer in answers[1:])


def test_streams(client: Blocking | Async) -> None:
    reading = client.read("The capital of France is", temperature=0, max_new_tokens=6, return_logprob=True)
    assert reading.error is None
    assert reading.text == " Paris.\n\nThe answer"[: len(reading.text)]
    assert len(reading.texts) > 1
    assert reading.stream is not None
    (generation,) = reading.stream.generations
    assert generation.completion_tokens == len(generation.tokens) == 6


def test_chats_and_tokens(client: Blocking | Async) -> None:
    answer = client.call("chat", "What is the capital of France?", temperature=0, max_new_tokens=16)
    assert answer.text == "The capital of France is Paris."
    # The router's tokenizer is asked by another form; the model's is loaded here.
    assert client.call("tokenize", "The capital of France is") == [504, 3575, 282, 4649, 314]
    assert client.call("detokenize", [504, 3575]) == "The capital"


def test_a_program_that_selects(router: Router) -> None:
    import sglang as sgl

    @sgl.function
    def decide(s: Any) -> None:
        s += "The capital of France is" + sgl.select("city", choices=[" Rome", " Paris", " Berlin"])

    worker = router.workers[0]
    with RuntimeEndpoint(router.url, api_key=KEY) as many, RuntimeEndpoint(worker.url, api_key=KEY) as one:
        spread, alone = decide.run(backend=many), decide.run(backend=one)
        assert spread["city"] == alone["city"] == " Paris"
        scores = [each.get_meta_info("city")["normalized_prompt_logprobs"] for each in (spread, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_a_stream_that_is_left_or_aborted_ends_on_its_worker(router: Router) -> None:
    with RuntimeEndpoint(router.url, api_key=KEY) as endpoint:
        for end in ("left", "aborted"):
            with endpoint.stream("Once upon a time", max_new_tokens=2000, ignore_eos=True) as stream:
                next(stream)
                assert router.running() == 1
                if end == "aborted":
                    stream.abort()
                    assert stream.generations[0].text
            wait_until(lambda: router.running() == 0)
        with pytest.raises(NotFoundError):
            endpoint.abort("by name")


def test_loads_count_the_requests_of_all_workers(router: Router) -> None:
    with RuntimeEndpoint(router.url, api_key=KEY) as endpoint, ExitStack() as stack:
        for _ in range(2):
            stream = endpoint.stream("Once upon a time", max_new_tokens=2000, ignore_eos=True)
            next(stack.enter_context(stream))
        assert sum(load.num_running_reqs or 0 for load in endpoint.loads()) == 2
        monitor = ServerPanel(endpoint).monitor
        monitor.poll()
        whole = monitor.load()
        assert whole is not None, monitor.error
        assert whole.num_running_reqs == 2
        assert monitor.server_info["workers_count"] == 2
        stack.close()
        wait_until(lambda: router.running() == 0)


def test_concurrent_requests_are_spread_over_the_workers(router: Router) -> None:
    before = router.answered()
    with RuntimeEndpoint(router.url, api_key=KEY) as endpoint, ThreadPoolExecutor(12) as pool:
        prompts = [f"{number} times {number + 3} is" for number in range(12)]
        answers = list(
            pool.map(lambda each: endpoint.complete(each, temperature=0, max_new_tokens=4), prompts)
        )
    gained = [now - then for now, then in zip(router.answered(), before, strict=True)]
    print(f"answers of each worker: {gained}")
    assert sum(gained) == 12
    assert all(gained)
    alone = [router.workers[0].generate(each, max_new_tokens=4)["text"] for each in prompts]
    assert [answer.text for answer in answers] == alone


def test_errors_of_the_router_are_reported(router: Router) -> None:
    with RuntimeEndpoint(router.url, api_key=KEY) as endpoint:
        with pytest.raises(ServerStatusError, match="expected a string"):
            endpoint.complete(["a batch", "of texts"], max_new_tokens=1)
        endpoint.flush_cache()


@pytest.mark.parametrize("key", ["sk-other", None])
def test_the_key_of_the_workers_is_required(router: Router, key: str | None) -> None:
    with pytest.raises(AuthenticationError):
        RuntimeEndpoint(router.url, api_key=key)


def test_requests_succeed_when_a_worker_ends(router: Router) -> None:
    """Last of all: one of the workers goes, and the other one answers."""
    gone, _ = router.workers
    with RuntimeEndpoint(router.url, api_key=KEY) as endpoint:
        gone.close()
        wait_until(lambda: [load.raw["is_healthy"] for load in endpoint.loads()].count(True) == 1)
        for _ in range(3):
            answer = endpoint.complete("The capital of France is", temperature=0, max_new_tokens=2)
            assert answer.text == " Paris."
        assert endpoint.health()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text(errors="replace")
    try:
        status = requests.get(f"{url}/readiness", timeout=2)
    except requests.RequestException:
        return False
    return status.ok and status.json()["healthy_workers"] == 2


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
