"""The same programs under three versions of SGLang's frontend language: each has to give the same.

The versions are real: 0.5.2 is installed, the sources of the others are taken out of their wheels. Each
runs in a process of its own, against a scripted server that notes what it is asked, and against the
embedded one.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_server import EmbeddedServer
from scripted_server import Asked, Reply, ScriptedServer, answer, stream
from sglang_wheels import source

SCRIPT = Path(__file__).with_name("frontend_programs.py")
INSTALLED = "0.5.2"
VERSIONS = [INSTALLED, "0.4.10.post2", "0.5.23"]
NEEDS_TORCH = {"0.5.23"}
"""As a whole; the frontend language in it does not."""

WORDS = re.compile(r"\s?\w+|\s|[^\w\s]")

CONSTRAINED = {
    "[0-9]{2}": "42",
    r"[-+]?[0-9]+[ \n]*": "7",
    r"[-+]?[0-9]*\.?[0-9]+[ \n]*": "0.5",
    "(True|False)": "True",
    r"\"[\w\d\s]*\"": '"word"',
}
"""What the model writes under each pattern."""


class Model:
    """Writes words that follow from the prompt; scores tokens by what they are and what stands before."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, asked: Asked) -> Reply:
        body = asked.json
        self.bodies.append({name: value for name, value in body.items() if name != "rid"})
        prompt = body.get("text", body.get("input_ids"))
        prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
        if body.get("stream"):
            return stream(*self.events(prompt, body))
        samples = body["sampling_params"].get("n") or 1
        answers = [list(self.events(each, body))[-1] for each in prompts for _ in range(samples)]
        return Reply(json=answers if len(answers) > 1 or prompts is prompt else answers[0])

    def events(self, prompt: Any, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ids = self.tokens(prompt) if isinstance(prompt, str) else prompt
        params = body["sampling_params"]
        made = self.written("".join(self.names[each] for each in ids), params)
        meta: dict[str, Any] = {"prompt_tokens": len(ids)}
        if body.get("return_logprob"):
            start = body.get("logprob_start_len") or 0
            meta["input_token_logprobs"] = self.scores(ids, start)
        for count in range(min(len(made), 1), len(made) + 1):
            if body.get("return_logprob"):
                meta["output_token_logprobs"] = self.scores([*ids[-1:], *made[:count]], 0)[1:]
                tops = [[[-1.0, 0, "x"]] * (body.get("top_logprobs_num") or 0)] * count
                meta["output_top_logprobs"] = tops
            text = "".join(self.names[each] for each in made[:count])
            reason = {"type": "length", "length": count} if count == len(made) else None
            yield answer(text, made[:count], finish_reason=reason, **meta)

    def written(self, prompt: str, params: dict[str, Any]) -> list[int]:
        limit = params.get("max_new_tokens", 128)
        if not limit:
            return []
        if params.get("json_schema"):
            return self.tokens('{"a": 1}')
        if params.get("regex"):
            return self.tokens(CONSTRAINED[params["regex"]])
        choose = random.Random(zlib.crc32(prompt.encode()))
        return self.tokens("".join(f" {choose.choice('abcdef')}" for _ in range(limit)))

    def tokens(self, text: str) -> list[int]:
        ids = []
        for piece in WORDS.findall(text):
            ids.append(zlib.crc32(piece.encode()) % 65521)
            assert self.names.setdefault(ids[-1], piece) == piece
        return ids

    def scores(self, ids: list[int], start: int) -> list[list[Any]]:
        assert 0 <= start < len(ids)
        return [
            [
                None if at == start else -(1 + (ids[at] + 7 * ids[at - 1]) % 50) / 10,
                ids[at],
                self.names[ids[at]],
            ]
            for at in range(start, len(ids))
        ]


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
