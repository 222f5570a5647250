"""The same programs under three versions of SGLang's frontend language: each has to give the same.

The versions are real: 0.5.2 is installed, the sources of the others are taken out of their wheels. Each
runs in a process of its own, against a scripted server that notes what it is asked, and against the
embedded one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.embedded_server import EmbeddedServer
from support.language_model import Model
from support.scripted_server import ScriptedServer
from support.sglang_wheels import source

SCRIPT = Path(__file__).parents[1] / "support" / "frontend_programs.py"
INSTALLED = "0.5.2"
VERSIONS = [INSTALLED, "0.4.10.post2", "0.5.23"]
NEEDS_TORCH = {"0.5.23"}
"""As a whole; the frontend language in it does not."""


def run(version: str, url: str) -> dict[str, Any]:
    folder = None if version == INSTALLED else source(version)
    stands_alone = version in NEEDS_TORCH
    paths = [] if folder is None or stands_alone else [str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(SCRIPT), url, version, *([str(folder)] if stands_alone else [])]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stderr[-4000:]
    gave: dict[str, Any] = json.loads(ran.stdout)
    return gave


@pytest.fixture(scope="module")
def scripted() -> Iterator[Callable[[str], tuple[dict[str, Any], list[dict[str, Any]]]]]:
    """Run the programs of a version against the scripted model, once."""
    known: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    with ScriptedServer() as server:

        def give(version: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            if version not in known:
                model = Model()
                server.on("/generate", model)
                known[version] = run(version, server.url), model.bodies
            return known[version]

        yield give


@pytest.mark.parametrize("version", VERSIONS)
def test_programs_with_a_scripted_model(version: str, scripted: Any) -> None:
    gave, bodies = scripted(version)
    expected, expected_bodies = scripted(INSTALLED)
    print(f"sglang {version}: {len(gave)} programs, {len(bodies)} requests")
    assert gave == expected
    assert sorted(map(request, bodies)) == sorted(map(request, expected_bodies))


def request(body: dict[str, Any]) -> str:
    """What a version asks for, without what only newer ones have."""
    params = {name: value for name, value in body["sampling_params"].items() if name != "stop_regex"}
    return json.dumps({**body, "sampling_params": params}, sort_keys=True)


def test_what_the_scripted_programs_give(scripted: Any) -> None:
    gave, bodies = scripted(INSTALLED)
    assert gave["constrained"] == ["42", "7", "0.5", "True", '"word"', '{"a": 1}']
    assert gave["being_a_backend"] == [[], True]
    assert gave["images"][0].startswith(" ")
    (seen,) = [body["image_data"] for body in bodies if body.get("image_data")]
    assert seen == ["YS5wbmc=", "Yi5wbmc="]
    (full,) = [body for body in bodies if body["sampling_params"].get("min_p") == 0.01]
    assert full["sampling_params"] == {
        "max_new_tokens": 6,
        "min_new_tokens": 2,
        "n": 1,
        "stop": ["\n\n"],
        "stop_token_ids": [1],
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.01,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.1,
        "ignore_eos": True,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
    }
    rest = {name: value for name, value in full.items() if name != "sampling_params"}
    assert rest == {
        "text": "The sky is",
        "return_logprob": True,
        "logprob_start_len": 1,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
    }
    prefix = "We count, as slowly as we can and without any haste, one number after the other, to "
    cached = [body for body in bodies if body.get("text") == prefix]
    assert [body["sampling_params"] for body in cached] == [{"max_new_tokens": 0}] * 3  # once for each batch


@pytest.fixture(scope="module")
def embedded(server: EmbeddedServer) -> Callable[[str], dict[str, Any]]:
    """Run the programs of a version against the embedded server, once."""
    known: dict[str, dict[str, Any]] = {}

    def give(version: str) -> dict[str, Any]:
        if version not in known:
            known[version] = run(version, server.url)
        return known[version]

    return give


@pytest.mark.model
@pytest.mark.parametrize("version", VERSIONS)
def test_programs_with_the_embedded_model(version: str, embedded: Any) -> None:
    gave = embedded(version)
    print(f"sglang {version}: {len(gave)} programs; {gave['chatbot'][0]!r}")
    assert gave == embedded(INSTALLED)
    assert "colour" in gave["chatbot"][0]
    assert " Paris" in gave["streaming_in_a_loop"]
    assert gave["being_a_backend"] == [[], True]
