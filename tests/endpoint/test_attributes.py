"""Attributes that programs written for SGLang read and assign."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import sglang as sgl
from sglang.lang import chat_template as sglang_templates
from support.clients import KINDS, Async, Blocking, connected, failure
from support.scripted_server import MODEL_INFO, Reply, ScriptedServer, answer, endless

from nbruntime import errors
from nbruntime.chat.named_templates import TEMPLATES
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint

OWN = sglang_templates.ChatTemplate(
    name="own",
    default_system_prompt=None,
    role_prefix_and_suffix={"user": ("<u>", "</u>"), "assistant": ("<a>", "</a>")},
    stop_str=["</a>"],
)


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    server.on("/generate", Reply(json=answer("Blue!")))
    with connected(request.param, server.url) as made:
        yield made


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/model_info", Reply(json={**MODEL_INFO, "model_path": "other-model"}))
        running.on("/generate", Reply(json=answer("Red!")))
        yield running


@pytest.mark.parametrize("attribute", ["chat_template", "chat_template_name"])
@pytest.mark.parametrize(
    "template", ["chatml", TEMPLATES["chatml"], sglang_templates.get_chat_template("chatml")]
)
def test_a_template_may_be_assigned(
    server: ScriptedServer, client: Blocking | Async, attribute: str, template: Any
) -> None:
    setattr(client.client, attribute, template)
    client.call("chat", "Hi")
    sent = server.to("/generate")[-1].json
    assert sent["text"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert sent["sampling_params"]["stop"] == ["<|im_end|>"]
    assert client.client.chat_template_name == "chatml"
    assert client.client.chat_template.image_token == "<image>"
    server.on("/tokenize", Reply(json={"tokens": [1, 2]}))
    setattr(client.client, attribute, None)  # the model's own again
    assert client.client.chat_template_name is None
    client.call("chat", "Hi")
    assert server.to("/generate")[-1].json["input_ids"] == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_of_sglang_may_be_given(server: ScriptedServer, kind: str) -> None:
    server.on("/generate", Reply(json=answer("Blue!")))
    with connected(kind, server.url, chat_template_name=OWN) as client:
        assert client.client.chat_template is OWN
        client.call("chat", [{"role": "system", "content": "s"}, "Hi"])
        copied = pickle.loads(pickle.dumps(client.client))
        assert copied.chat_template == OWN
    assert server.to("/generate")[-1].json["text"] == "s<u>Hi</u><a>"
    assert server.to("/generate")[-1].json["sampling_params"]["stop"] == ["</a>"]


def test_an_assigned_template_writes_programs(server: ScriptedServer, endpoint: RuntimeEndpoint) -> None:
    server.on("/generate", Reply(json=answer("Blue!")))

    @sgl.function
    def ask(s: Any) -> None:
        s += sgl.user("Hi")
        s += sgl.assistant(sgl.gen("answer"))

    endpoint.chat_template = sglang_templates.get_chat_template("vicuna_v1.1")
    assert ask.run(backend=endpoint)["answer"] == "Blue!"
    assert server.to("/generate")[-1].json["text"].endswith("USER:Hi ASSISTANT:")


@pytest.mark.filterwarnings("ignore:The chat template")
def test_another_server_is_asked_anew(
    server: ScriptedServer, other: ScriptedServer, client: Blocking | Async
) -> None:
    server.forget("/tokenize")
    client.call("chat", "Hi")  # learns that the server does not tokenize
    assert client.call("get_server_info")["tp_size"] == 1
    other.on("/tokenize", Reply(json={"tokens": [1, 2]}))
    asked = len(server.asked)
    client.client.base_url = other.url + "/"
    assert client.client.base_url == other.url
    assert client.client.last_model_info == client.client.last_server_info == {}
    assert "unknown model" in repr(client.client)
    assert other.asked == []
    assert client.call("chat", "Hi").text == "Red!"
    assert client.call("get_model_name") == "other-model"
    assert client.client.model_info["model_path"] == "other-model"
    assert other.to("/generate")[0].json["input_ids"] == [1, 2]
    assert len(server.asked) == asked


def test_a_running_stream_stays_with_its_server(
    server: ScriptedServer, other: ScriptedServer, client: Blocking | Async
) -> None:
    server.on("/generate", endless())

    def leave() -> None:
        client.client.base_url = other.url
        raise errors.NbruntimeError("the reader leaves")

    reading = client.read("x", between=leave)
    assert reading.text == "Once"
    assert reading.stream is not None
    server.wait_for("/abort_request")
    assert server.to("/abort_request")[0].json == {"rid": reading.stream.rid}
    assert other.asked == []
    assert client.call("complete", "x").text == "Red!"


@pytest.mark.parametrize(
    ("attribute", "wrong"),
    [
        ("base_url", 30000),
        ("base_url", "localhost:30000"),
        ("verify", 5),
        ("api_key", 5),
        ("model_info", "scripted-model"),
        ("model_info", {}),
        ("chat_template", 5),
        ("chat_template", "no such template"),
        ("chat_template", type(OWN)),
        ("chat_template_name", {"name": "chatml"}),
        ("connect_timeout", "5"),
        ("read_timeout", -1),
    ],
)
def test_a_wrong_value_is_refused_at_once(
    server: ScriptedServer, client: Blocking | Async, attribute: str, wrong: Any
) -> None:
    before = getattr(client.client, attribute) if attribute != "chat_template" else None
    with pytest.raises(errors.ArgumentError) as caught:
        setattr(client.client, attribute, wrong)
    assert caught.value.hint
    if attribute != "chat_template":
        assert getattr(client.client, attribute) == before
    assert client.client.model_info == MODEL_INFO
    assert client.call("complete", "x").text == "Blue!"


def test_the_other_attributes_may_be_assigned(certificate: tuple[str, str], client: Blocking | Async) -> None:
    endpoint = client.client
    endpoint.model_info = {**MODEL_INFO, "model_path": "renamed"}
    assert endpoint.model_info["model_path"] == "renamed"
    assert "renamed" in copy.copy(endpoint).model_info["model_path"]
    endpoint.read_timeout = endpoint.connect_timeout = 5
    assert (endpoint.read_timeout, endpoint.connect_timeout) == (5, 5)
    with ScriptedServer(certificate=certificate) as secure:
        endpoint.base_url = secure.url
        assert "certificate" in failure(lambda: client.call("get_model_name")).message
        endpoint.verify = certificate[0]
        assert endpoint.verify == certificate[0]
        assert client.call("get_model_name") == "scripted-model"


@pytest.mark.parametrize("kind", [RuntimeEndpoint, AsyncRuntimeEndpoint])
def test_a_copy_has_attributes_of_its_own(server: ScriptedServer, kind: Any) -> None:
    one = kind(server.url)
    for two in (copy.copy(one), copy.deepcopy(one)):
        two.chat_template, two.api_key, two.base_url = "chatml", "sk-other", "http://127.0.0.1:9"
        assert (one.chat_template_name, one.api_key, one.base_url) == (None, None, server.url)
