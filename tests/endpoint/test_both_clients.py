"""Both clients: the same names, the same requests, the same answers."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clients import KINDS, Async, Blocking, connected
from support.scripted_server import MODEL_INFO, Asked, Reply, ScriptedServer, answer, cumulative, stream

from nbruntime import errors
from nbruntime.endpoint import AsyncRuntimeEndpoint, RuntimeEndpoint
from nbruntime.endpoint.base_client import BaseClient
from nbruntime.frontend.backend import FrontendBackend
from nbruntime.protocol.load import Load
from nbruntime.protocol.messages import read_messages
from nbruntime.protocol.options import OPTION_NAMES
from nbruntime.protocol.profile import PROFILE_OPTIONS
from nbruntime.protocol.sampling import PARAMETER_NAMES

RECORDS = Path(__file__).parents[1] / "data" / "sglang_records"
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]


def recorded(name: str) -> Any:
    return json.loads((RECORDS / f"{name}.json").read_text())["body"]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.on("/generate", generate)
        yield running


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Iterator[Blocking | Async]:
    with connected(request.param, server.url) as driver:
        yield driver


def generate(asked: Asked) -> Reply:
    if asked.json.get("stream"):
        return stream(*cumulative(["Blue", "!"], asked.json["rid"]))
    return Reply(json=answer("Blue!", [1, 2], id=asked.json["rid"]))


def public(kind: type) -> dict[str, Any]:
    return {
        name: value
        for base in reversed(kind.__mro__)
        if base not in (object, FrontendBackend)
        for name, value in vars(base).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property | classmethod))
    }


def test_both_have_the_same_names_and_arguments() -> None:
    ours, theirs = public(RuntimeEndpoint), public(AsyncRuntimeEndpoint)
    # The blocking client connects when it is made.
    assert set(ours) - set(theirs) == {"panel"}
    assert set(theirs) - set(ours) == {"connect", "beside"}
    for name in set(ours) & set(theirs):
        if name in vars(BaseClient):
            continue
        if isinstance(ours[name], property):
            assert isinstance(theirs[name], property), name
            continue
        assert inspect.iscoroutinefunction(theirs[name]), name
        assert inspect.signature(ours[name]).parameters == inspect.signature(theirs[name]).parameters, name
    assert inspect.signature(RuntimeEndpoint).parameters == inspect.signature(AsyncRuntimeEndpoint).parameters
    print(f"{len(set(ours) & set(theirs))} names in both")


def test_information_about_the_server(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/v1/models", Reply(json=recorded("get_v1_models")))
    assert client.client.model_info == MODEL_INFO
    assert client.call("get_model_name") == "scripted-model"
    assert client.call("get_server_info")["version"] == "0.5.23"
    assert [card["id"] for card in client.call("models")] == ["smollm2-135m"]
    assert client.call("health")
    assert client.call("flush_cache") is None
    assert client.call("abort_all") is None
    assert server.to("/abort_request")[-1].json == {"rid": "", "abort_all": True}
    assert json.loads(client.call("get", "/server_info"))["version"] == "0.5.23"
    assert client.call("post", "/generate", {"text": "x", "rid": "r"})["text"] == "Blue!"
    client.call("cache_prefix", "System: be brief.")
    assert server.to("/generate")[-1].json["sampling_params"] == {"max_new_tokens": 0}
    for body in ({"data": 5}, [1]):
        server.on("/v1/models", Reply(json=body))
        with pytest.raises(errors.ProtocolError, match="does not describe"):
            client.call("models")


def test_signatures_name_every_option() -> None:
    for name in ("complete", "stream", "chat", "stream_chat"):
        shown = list(inspect.signature(getattr(RuntimeEndpoint, name)).parameters)[2:]
        names = ["sampling_params", "rid", "timeout", *PARAMETER_NAMES, *OPTION_NAMES]
        assert sorted(shown) == sorted(names), name


@pytest.mark.parametrize("method", ["complete", "stream", "chat", "stream_chat"])
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    client: Blocking | Async, server: ScriptedServer, method: str
) -> None:
    sent = len(server.asked)
    with pytest.raises(errors.ArgumentTypeError, match="There is no parameter 'max_tokens'"):
        client.call(method, "x", max_tokens=5)
    other = "stream" not in method
    with pytest.raises(errors.ArgumentTypeError, match=f"This method takes no stream={other}"):
        client.call(method, "x", stream=other)
    assert len(server.asked) == sent


def test_a_method_accepts_its_own_stream_value(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/generate", Reply(json=answer("Paris", [1])))
    assert client.call("complete", "x", stream=False).text == "Paris"
    server.on("/generate", stream(*cumulative(["Par", "is"])))
    assert client.read("x", stream=True).text == "Paris"


@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_the_server_writes_the_conversation(
    client: Blocking | Async, server: ScriptedServer, method: str
) -> None:
    server.on("/tokenize", Reply(json=recorded("tokenize_messages")))
    tokens = recorded("tokenize_messages")["tokens"]
    if method == "chat":
        generation = client.call("chat", TALK, temperature=0, rid="me", stop="\n")
    else:
        reading = client.read(TALK, method="stream_chat", temperature=0, rid="me", stop="\n")
        assert reading.texts == ["Blue", "!"]
        generation = reading.stream.generations[0]
    assert generation.text == "Blue!"
    assert generation.prompt == tuple(tokens)
    assert server.to("/tokenize")[0].json == {"messages": TALK}
    sent = server.to("/generate")[0].json
    assert sent["input_ids"] == tokens
    assert sent["sampling_params"] == {"temperature": 0, "stop": "\n"}
    assert sent["rid"] == "me"


def test_a_text_is_a_user_message(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/tokenize", Reply(json={"tokens": [1, 2], "count": 2}))
    client.call("chat", "Hello")
    client.call("chat", ["Hello", {"role": "assistant", "content": "Hi"}, "Bye"])
    assert [asked.json["messages"] for asked in server.to("/tokenize")] == [
        [{"role": "user", "content": "Hello"}],
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Bye"},
        ],
    ]


def test_parts_of_a_message(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/tokenize", Reply(json={"tokens": [1, 2], "count": 2}))
    text = {"type": "text", "text": "Hi"}
    client.call("chat", [{"role": "user", "content": ["Hi", {"text": "Hi"}, text]}])
    assert server.to("/tokenize")[-1].json["messages"] == [{"role": "user", "content": [text] * 3}]
    image = {"type": "image_url", "image_url": {"url": "cat.png"}}
    talk = [{"role": "user", "content": [text, image]}]
    for call in ("chat", "stream_chat"):
        with pytest.raises(errors.ArgumentTypeError, match="more than text: 'image_url'"):
            client.call(call, talk)
    assert len(server.to("/tokenize")) == 1
    # The server writes the place of an image that is sent beside the messages.
    client.call("chat", talk, image_data=["cat.png"])
    assert server.to("/tokenize")[-1].json["messages"] == talk
    assert server.to("/generate")[-1].json["image_data"] == ["cat.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_template_writes_the_conversation(server: ScriptedServer, kind: str) -> None:
    written = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a colour.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    with connected(kind, server.url, chat_template_name="chatml") as client:
        client.call("chat", TALK, stop=["\n"])
        client.call("chat", TALK, sampling_params={"stop": "<|im_end|>"})
        client.call("chat", [*TALK[:1], {"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
        with pytest.raises(errors.ArgumentTypeError, match="more than text"):
            client.call("chat", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
    sent = [asked.json for asked in server.to("/generate")]
    assert [each["text"] for each in sent[:2]] == [written, written]
    assert [each["sampling_params"]["stop"] for each in sent] == [
        ["\n", "<|im_end|>"],
        ["<|im_end|>"],
        ["<|im_end|>"],
    ]
    assert server.to("/tokenize") == []
    with connected(kind, server.url, chat_template_name="qwen") as client:
        client.call("chat", "Hello")  # a template's own system message comes first
    assert server.to("/generate")[-1].json["text"].startswith("<|im_start|>system\nYou are a helpful")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a template, as a model's folder has it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "<s>", "</s>", "[user]", "[bot]", "hello", "world"]
    backend = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[user]", "[bot]"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ 'user' if m.role == 'user' else 'bot' }}] {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[bot]{% endif %}"
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_servers_without_a_tokenizer_route(server: ScriptedServer, kind: str, tokenizer_folder: Path) -> None:
    info = {**MODEL_INFO, "tokenizer_path": str(tokenizer_folder)}
    server.on("/model_info", Reply(json=info))
    with connected(kind, server.url) as client:
        client.call("chat", "hello")
        client.call("chat", [{"role": "user", "content": [{"type": "text", "text": "world"}]}])
        assert [asked.json["text"] for asked in server.to("/generate")] == [
            "[user] hello</s>[bot]",
            "[user] world</s>[bot]",
        ]
        assert server.to("/generate")[0].json["sampling_params"]["stop"] == ["</s>"]
        assert len(server.to("/tokenize")) == 1  # it is not asked in vain again
        assert client.call("tokenize", "hello world") == [5, 6]
        assert client.call("tokenize", ["hello", "world"]) == [[5], [6]]
        assert client.call("tokenize", messages="hello") == [3, 5, 2, 4]
        assert client.call("detokenize", [5, 6, 2]) == "hello world"
        assert client.call("detokenize", [[5], [6, 2]], skip_special_tokens=False) == ["hello", "world </s>"]
        with pytest.raises(errors.ArgumentValueError, match="no system"):
            client.call("chat", [{"role": "system", "content": "x"}])
        # What was loaded here does not go with a pickle.
        loaded = pickle.loads(pickle.dumps(client.client))
        assert len(pickle.dumps(client.client)) < 2000
        assert loaded.model_info == info


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_servers_that_tokenize_know_no_conversations(
    server: ScriptedServer, kind: str, tokenizer_folder: Path
) -> None:
    server.on("/model_info", Reply(json={**MODEL_INFO, "tokenizer_path": str(tokenizer_folder)}))
    missing = "[{'type': 'missing', 'loc': ('body', 'prompt'), 'msg': 'Field required', 'input': {}}]"

    def tokenize(asked: Asked) -> Reply:
        if "prompt" not in asked.json:
            return Reply(json={"object": "error", "message": missing, "code": 400}, status=400)
        return Reply(json={"tokens": [9], "count": 1})

    server.on("/tokenize", tokenize)
    with connected(kind, server.url) as client:
        client.call("chat", "hello")
        assert server.to("/generate")[0].json["text"] == "[user] hello</s>[bot]"
        assert client.call("tokenize", "hello") == [9]


def test_a_refusal_by_the_template_is_the_servers_error(
    client: Blocking | Async, server: ScriptedServer
) -> None:
    words = "The chat template refused the messages: roles must alternate"
    server.on("/tokenize", Reply(json={"object": "error", "message": words, "code": 400}, status=400))
    with pytest.raises(errors.BadRequestError, match="must alternate"):
        client.call("chat", TALK)
    assert server.to("/generate") == []


@pytest.mark.parametrize(
    "messages",
    ["", [], [{}], [{"role": "user"}], [{"content": "x"}], [5], 5, None, [{"role": 1, "content": "x"}]],
)
def test_invalid_conversations_are_refused(messages: Any) -> None:
    if messages == "":
        assert read_messages(messages) == [{"role": "user", "content": ""}]
        return
    with pytest.raises(errors.ArgumentError) as caught:
        read_messages(messages)
    assert caught.value.hint


def test_nothing_is_sent_when_an_argument_of_a_chat_is_wrong(
    client: Blocking | Async, server: ScriptedServer
) -> None:
    for name, options in (("temprature", {"temprature": 5}), ("max_tokens", {"max_tokens": 5})):
        with pytest.raises(errors.ArgumentTypeError, match=name):
            client.call("chat", TALK, **options)
        assert isinstance(client.read(TALK, method="stream_chat", **options).error, errors.ArgumentTypeError)
    with pytest.raises(errors.ArgumentValueError):
        client.call("chat", [])
    assert server.to("/tokenize") == server.to("/generate") == []


def test_tokens(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/tokenize", Reply(json=recorded("tokenize")))
    server.on("/detokenize", Reply(json=recorded("detokenize")))
    assert client.call("tokenize", "The capital of France is") == [504, 3575, 282, 4649, 314]
    assert client.call("detokenize", [504, 3575, 282, 4649, 314]) == "The capital of France is"
    assert server.to("/tokenize")[0].json == {
        "prompt": "The capital of France is",
        "add_special_tokens": True,
    }
    assert server.to("/detokenize")[0].json == {
        "tokens": [504, 3575, 282, 4649, 314],
        "skip_special_tokens": True,
    }
    server.on("/tokenize", Reply(json={"count": 5}))
    with pytest.raises(errors.ProtocolError, match="no tokens"):
        client.call("tokenize", "x")
    for wrong in ({}, {"text": "x", "messages": "x"}, {"text": 5}, {"text": [5]}):
        with pytest.raises(errors.ArgumentError):
            client.call("tokenize", **wrong)
    for ids in ("text", [1, "x"], [[1], 2], 5):
        with pytest.raises(errors.ArgumentTypeError):
            client.call("detokenize", ids)


def test_no_tokenizer_anywhere(client: Blocking | Async, server: ScriptedServer) -> None:
    with pytest.raises(errors.NotFoundError, match="does not tokenize") as caught:
        client.call("tokenize", "x")
    assert "/nowhere/scripted-model" in str(caught.value)


def test_embeddings(client: Blocking | Async, server: ScriptedServer) -> None:
    def encode(asked: Asked) -> Reply:
        value = asked.json.get("text", asked.json.get("input_ids"))
        made = {"embedding": [0.25, -0.5], "meta_info": {"prompt_tokens": 2}}
        many = isinstance(value, list) and not isinstance(value[0], int)
        return Reply(json=[made] * len(value) if many else made)

    server.on("/encode", encode)
    assert client.call("embed", "Hello") == [0.25, -0.5]
    assert client.call("embed", ["Hello", "world"]) == [[0.25, -0.5]] * 2
    assert client.call("embed", [1, 2]) == [0.25, -0.5]
    assert client.call("embed", ["Hello"], dimensions=2) == [[0.25, -0.5]]
    assert server.to("/encode")[-1].json["dimensions"] == 2
    server.on("/encode", Reply(json=recorded("encode_not_embedding"), status=400))
    with pytest.raises(errors.BadRequestError, match="--is-embedding"):
        client.call("embed", "Hello")
    server.on("/encode", Reply(json={"meta_info": {}}))
    with pytest.raises(errors.ProtocolError, match="no embedding"):
        client.call("embed", "Hello")
    with pytest.raises(errors.ArgumentError):
        client.call("embed", [])


def test_loads(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/v1/loads", Reply(json=recorded("get_v1_loads")))
    (load,) = client.call("loads")
    assert (load.dp_rank, load.num_running_reqs, load.max_total_num_tokens) == (0, 0, 32768)
    assert load.raw["memory"]["token_capacity"] == 32768
    server.forget("/v1/loads")
    server.on("/get_load", Reply(json={"load": 120}))
    assert client.call("loads") == [Load(num_total_tokens=120)]
    between = [{"dp_rank": 1, "num_reqs": 3, "num_waiting_reqs": 1, "num_tokens": 40, "ts_tic": 0.5}]
    server.on("/get_load", Reply(json=between))
    assert client.call("loads") == [
        Load(dp_rank=1, num_running_reqs=2, num_waiting_reqs=1, num_total_tokens=40)
    ]
    server.forget("/get_load")
    workers = [{"url": "http://one", "load": 3, "is_healthy": True}, {"url": "http://two", "load": -1}]
    server.on("/workers", Reply(json={"workers": workers, "total": 2}))
    one, two = client.call("loads")
    assert (one.dp_rank, one.num_running_reqs, one.raw["url"]) == (0, 3, "http://one")
    assert (two.dp_rank, two.num_running_reqs) == (1, None)
    for nonsense in ({"load": "high"}, "busy", {"loads": 5}, {"workers": 2}):
        server.on("/get_load", Reply(json=nonsense))
        with pytest.raises(errors.ProtocolError, match="not a load report"):
            client.call("loads")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["sk-own-key", None])
def test_keys_in_what_a_server_says_are_masked(server: ScriptedServer, kind: str, key: str | None) -> None:
    arguments = {"api_key": "sk-own-key", "admin_api_key": "sk-admin-key", "ssl_keyfile_password": None}
    command = "--model-path m --api-key=sk-own-key --admin-api-key=sk-admin-key"
    info = {**arguments, "tp_size": 1, "launch_command": command, "internal_states": [arguments]}
    server.on("/server_info", Reply(json=info))
    with connected(kind, server.url, api_key=key) as client:
        told = client.call("get_server_info")
    assert "sk-" not in str(told)
    assert told["api_key"] == told["internal_states"][0]["admin_api_key"] == "***"
    assert told["launch_command"] == "--model-path m --api-key=*** --admin-api-key=***"
    assert (told["tp_size"], told["ssl_keyfile_password"]) == (1, None)


def test_profiles(client: Blocking | Async, server: ScriptedServer) -> None:
    server.on("/start_profile", Reply(body=b"Start profiling.\n"))
    server.on("/stop_profile", Reply(body=b"Stop profiling.\n"))
    client.call("start_profile")
    client.call("start_profile", "traces", num_steps=5, activities=("CPU",), with_stack=False)
    client.call("stop_profile")
    assert [asked.json for asked in server.to("/start_profile")] == [
        None,
        {"output_dir": "traces", "num_steps": 5, "activities": ["CPU"], "with_stack": False},
    ]
    named = [name for name in inspect.signature(client.client.start_profile).parameters if name != "unknown"]
    assert named == list(PROFILE_OPTIONS)
    for options, words in (
        ({"outputdir": "x"}, "'output_dir'"),
        ({"num_step": 5}, "'num_steps'"),
        ({"num_steps": "5"}, "not a int"),
        ({"num_steps": True}, "not a int"),
        ({"num_steps": -1}, "Give 0 or more"),
        ({"activities": "CPU"}, "list of texts"),
        ({"activities": ["TPU"]}, "There are: CPU"),
    ):
        with pytest.raises(errors.ArgumentError, match=words):
            client.call("start_profile", **options)
    assert len(server.to("/start_profile")) == 2
