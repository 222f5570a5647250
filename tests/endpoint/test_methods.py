"""The methods of `RuntimeEndpoint`: what each sends and returns, and which arguments are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import failure
from support.scripted_server import KEY, MODEL_INFO, Reply, ScriptedServer, answer

from nbruntime import errors
from nbruntime.endpoint import RuntimeEndpoint
from nbruntime.generation import Generation


def test_attributes_and_methods_are_those_of_sglang(server: ScriptedServer) -> None:
    server.api_key = KEY
    with RuntimeEndpoint(
        base_url=server.url, api_key=KEY, verify=None, chat_template_name="chatml"
    ) as endpoint:
        assert endpoint.base_url == server.url
        assert endpoint.api_key == KEY
        assert endpoint.verify is None
        assert endpoint.model_info == MODEL_INFO
        assert endpoint.chat_template.name == "chatml"
        assert endpoint.get_model_name() == "scripted-model"
        assert endpoint.get_server_info()["tp_size"] == 1
        assert endpoint.flush_cache() is None
        server.on("/generate", Reply(json=answer("", [])))
        endpoint.cache_prefix("System: be brief.")
        sent = server.to("/generate")[0].json
        assert (sent["text"], sent["sampling_params"]) == ("System: be brief.", {"max_new_tokens": 0})
        server.on("/start_profile", Reply(body=b"Start profiling.\n"))
        server.on("/stop_profile", Reply(body=b"Stop profiling.\n"))
        endpoint.start_profile()
        endpoint.start_profile(output_dir="traces", num_steps=5, activities=None)
        endpoint.stop_profile()
        assert [asked.json for asked in server.to("/start_profile")] == [
            None,
            {"output_dir": "traces", "num_steps": 5},
        ]
        assert endpoint.health()


def test_complete(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer(" Paris.", [7042, 30])))
    generation = endpoint.complete(
        "The capital of France is",
        temperature=0,
        sampling_params={"max_new_tokens": 8, "temperature": 1},
        rid="me",
    )
    assert isinstance(generation, Generation)
    assert generation.text == " Paris."
    assert generation.prompt == "The capital of France is"
    assert generation.timings.total is not None
    assert server.to("/generate")[0].json == {
        "text": "The capital of France is",
        "sampling_params": {"max_new_tokens": 8, "temperature": 0},
        "rid": "me",
    }


def test_batches_and_samples(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=[answer(text, [1]) for text in ("a", "b", "c", "d")]))
    many = endpoint.complete(["x", "y"], n=2)
    assert isinstance(many, list)
    assert [(g.text, g.prompt, g.index) for g in many] == [
        ("a", "x", 0), ("b", "x", 1), ("c", "y", 2), ("d", "y", 3)]  # fmt: skip
    server.on("/generate", Reply(json=[answer("a", [1])]))
    assert isinstance(endpoint.complete(["x"]), list)
    assert isinstance(endpoint.complete([[1, 2]]), list)
    server.on("/generate", Reply(json=answer("a", [1])))
    assert isinstance(endpoint.complete([1, 2]), Generation)
    with pytest.raises(errors.ProtocolError, match="not send 2 answers"):
        endpoint.complete(["x", "y"])


def test_nothing_is_sent_when_an_argument_is_wrong(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="'max_new_tokens'"):
        endpoint.complete("x", max_tokens=5)
    with pytest.raises(TypeError, match="Did you mean 'temperature'"):
        endpoint.stream("x", sampling_params={"temprature": 5})
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 2\."):
        endpoint.complete("x", top_p=2)
    with pytest.raises(errors.ArgumentValueError, match="JSON"):
        endpoint.complete("half \ud800 a character")
    assert server.to("/generate") == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("messages", "Give a conversation to chat()"),
        ("request_timeout", "Did you mean 'timeout'?"),
        ("response_format", "Did you mean 'json_schema'?"),
        ("image", "Did you mean 'image_data'?"),
    ],
)
def test_names_of_other_libraries_are_explained(endpoint: RuntimeEndpoint, name: str, hint: str) -> None:
    with pytest.raises(errors.ArgumentTypeError, match=f"There is no parameter {name!r}") as caught:
        endpoint.complete("x", **{name: 1})
    assert hint in str(caught.value.hint)


def test_older_routes_are_tried(server: ScriptedServer) -> None:
    server.forget("/model_info")
    server.forget("/server_info")
    server.on(
        "/get_model_info", Reply(json={"model_path": "old", "tokenizer_path": "old", "is_generation": True})
    )
    server.on("/get_server_info", Reply(json={"version": "0.5.2"}))
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.get_model_name() == "old"
        assert endpoint.get_server_info() == {"version": "0.5.2"}


def test_health_is_false_on_503(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    assert endpoint.health()
    server.on("/health", Reply(body=b"", status=503))
    assert not endpoint.health()
    assert "503" in repr(endpoint)


def test_abort_refuses_an_empty_rid(endpoint: RuntimeEndpoint) -> None:
    with pytest.raises(errors.ArgumentValueError):
        endpoint.abort("")
    endpoint.abort("unknown")


def test_arguments_of_wrong_types_are_not_sent(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    count = len(server.asked)
    calls: list[Callable[[], Any]] = [
        lambda: endpoint.embed("x", dimensions="big"),  # type: ignore[arg-type]
        lambda: endpoint.tokenize("x", add_special_tokens="no"),  # type: ignore[arg-type]
        lambda: endpoint.detokenize([1], skip_special_tokens=0),  # type: ignore[arg-type]
        *(lambda rid=rid: endpoint.abort(rid) for rid in (5, None, [5], b"x", [], "")),
    ]
    for call in calls:
        assert isinstance(failure(call), errors.ArgumentError)
    assert len(server.asked) == count


def test_repr_sends_no_request(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    count = len(server.asked)
    text = repr(endpoint)
    assert len(text.splitlines()) <= 3
    assert server.url in text
    assert "scripted-model" in text
    assert "answered" in text
    assert len(server.asked) == count


def test_there_is_no_endpoint_attribute(endpoint: RuntimeEndpoint) -> None:
    # SGLang's frontend language would take `backend.endpoint` for the backend.
    assert not hasattr(endpoint, "endpoint")
