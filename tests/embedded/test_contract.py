"""Requests and answers conform to the contract types that SGLang ships, by their own strict decoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.embedded_server import EmbeddedServer
from support.server_client import generate_body
from support.sglang_contract import load_contract

from nbruntime.embedded.service.errors import ReplyError
from nbruntime.embedded.service.generate_input import check_body
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.protocol.requests import build_generate_request
from nbruntime.protocol.sampling import PARAMETER_NAMES, ContractError, SamplingParams

pytestmark = pytest.mark.model

PROMPT = "The capital of France is"
LOGPROBS = {"return_logprob": True, "top_logprobs_num": 2, "token_ids_logprob": [7042, 260]}


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    return load_contract()


def check_answer(contract: ModuleType, answer: dict[str, Any]) -> Any:
    """Decode one answer strictly; what the contract knows of it comes back unchanged."""
    decoded = contract.decode_GenerateResponse(answer)
    known = {field for field in contract.GenerateResponse.__struct_fields__ if answer.get(field) is not None}
    assert {"text", "output_ids", "meta_info"} <= known
    encoded = contract.encode_GenerateResponse(decoded)
    for name in known - {"meta_info"}:
        assert encoded[name] == answer[name]
    meta, reencoded = answer["meta_info"], encoded["meta_info"]
    for name in contract.GenerateMetaInfo.__struct_fields__:
        if meta.get(name) not in (None, []):
            assert reencoded[name] == meta[name], name
    reason = decoded.meta_info.finish_reason
    assert reason is None or not isinstance(reason, dict), f"not a finish reason of the contract: {reason}"
    return decoded


ANSWERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "plain": (PROMPT, {}, {}),
    "tokens": ([504, 3575, 282], {}, {}),
    "batch": ([PROMPT, "2+2="], {}, {}),
    "n": (PROMPT, {}, {"n": 2, "temperature": 1}),
    "stop string": (PROMPT, {}, {"stop": "."}),
    "stop token": (PROMPT, {}, {"stop_token_ids": [30]}),
    "no new token": (PROMPT, LOGPROBS | {"logprob_start_len": 0}, {"max_new_tokens": 0}),
    "log-probabilities": (PROMPT, LOGPROBS, {}),
    "all log-probabilities": (
        PROMPT,
        LOGPROBS | {"logprob_start_len": 0, "return_text_in_logprobs": True},
        {},
    ),
    "a batch of log-probabilities": ([PROMPT, "Hi"], {"return_logprob": [True, False]}, {}),
    "prompt tokens": (PROMPT, {"return_prompt_token_ids": True}, {}),
    "a grammar": (PROMPT, {}, {"regex": "[A-Z][a-z]+"}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers(server: EmbeddedServer, contract: ModuleType, name: str, stream: bool) -> None:
    prompt, extra, params = ANSWERS[name]
    body = generate_body(prompt, extra, **{"max_new_tokens": 4, **params})
    contract.decode_GenerateRequest(body)
    if stream:
        answers = server.events(prompt, fields=extra, **{"max_new_tokens": 4, **params})
        assert answers[-1]["meta_info"]["finish_reason"] is not None
    else:
        answer = server.post("/generate", body).json()
        answers = answer if isinstance(answer, list) else [answer]
    for each in answers:
        check_answer(contract, each)


def test_aborts(server: EmbeddedServer, contract: ModuleType) -> None:
    with server.stream(
        PROMPT, fields={"rid": "contract-abort"}, max_new_tokens=300, ignore_eos=True
    ) as events:
        next(events)
        server.post("/abort_request", {"rid": "contract-abort"})
        last = list(events)[-1]
    assert check_answer(contract, last).meta_info.finish_reason == contract.FinishAbort(message="Aborted")


def test_errors_in_streams(server: EmbeddedServer, contract: ModuleType) -> None:
    (event,) = server.events(PROMPT, max_new_tokens=-1)
    error = contract.decode_GenerateStreamError(event).error
    assert (error.code, error.message) == (400, "max_new_tokens must be at least 0, got -1.")


def test_information(server: EmbeddedServer, contract: ModuleType) -> None:
    card = contract.decode_ModelCard(server.get("/v1/models").json()["data"][0])
    assert card.max_model_len == 8192
    text = contract.decode_DetokenizeResponse(server.post("/detokenize", {"tokens": [504, 3575]}).json())
    assert text.text == "The capital"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "logit_bias": st.dictionaries(st.integers(-2, 99).map(str), JSON_VALUES, max_size=2),
    "watermark": st.dictionaries(st.sampled_from(["enabled", "key", "context_window", "x"]), JSON_VALUES),
    "stop": st.lists(st.text(max_size=3), max_size=3),
    "stop_token_ids": st.lists(st.integers(0, 99), max_size=3),
    "choice": st.lists(st.text(max_size=3), max_size=3),
}


def keys_are_numbers(params: dict[str, Any]) -> bool:
    """SGLang's contract lets any key of a logit_bias pass, and its next check says what is wrong with it."""
    bias = params.get("logit_bias")
    return not isinstance(bias, dict) or all(key.lstrip("-").isdecimal() for key in bias)


@st.composite
def sampling_params(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from([*PARAMETER_NAMES, "max_tokens"]), max_size=4, unique=True))
    params = {name: draw(LIKELY.get(name, st.nothing()) | JSON_VALUES) for name in names}
    return params if keys_are_numbers(params) else {}


def outcome(decode: Callable[[Any], Any], value: Any, refusal: type[Exception]) -> tuple[Any, str | None]:
    try:
        return decode(value), None
    except refusal as error:
        return None, str(error)


@given(sampling_params())
@example({"max_new_tokens": 1.0})
@example({"temperature": True})
@example({"json_schema": {"type": "object"}})
@example({"choice": "a"})
@example({"watermark": {"secret": 1}})
@example({"stop": 5, "max_tokens": 1})
@example({"logit_bias": {"5": None}})
def test_sampling_params_are_read_as_by_the_contract(contract: ModuleType, params: dict[str, Any]) -> None:
    ours, our_message = outcome(SamplingParams.from_dict, params, ContractError)
    theirs, their_message = outcome(contract.decode_SamplingParams, params, contract.JsonContractError)
    assert our_message == their_message
    if ours is None:
        return
    for field in fields(SamplingParams):
        mine, recorded = getattr(ours, field.name), getattr(theirs, field.name)
        assert plain(mine, field.name) == plain(recorded, field.name), field.name


def plain(value: Any, name: str) -> Any:
    """The same form for what either side reads into types of its own."""
    if name in ("stop", "stop_regex", "stop_token_ids", "choice"):
        return [value] if isinstance(value, str) else list(value or ())
    if name in ("json_schema", "regex", "ebnf", "structural_tag"):
        return value or None  # "" is none, which SGLang settles after its contract
    if name == "logit_bias":
        return {str(int(key)): bias for key, bias in (value or {}).items()}
    if name == "top_k":
        return 1 << 30 if value == -1 else value  # as above
    if name == "watermark" and value is not None:
        given = (
            value
            if isinstance(value, dict)
            else {key: getattr(value, key) for key in value.__struct_fields__}
        )
        return {key: option for key, option in given.items() if option is not None}
    return value


def test_sampling_params_have_the_names_and_defaults_of_the_contract(contract: ModuleType) -> None:
    assert contract.SamplingParams.__struct_fields__ == PARAMETER_NAMES
    ours, theirs = SamplingParams(), contract.SamplingParams()
    for name in PARAMETER_NAMES:
        assert plain(getattr(ours, name), name) == plain(getattr(theirs, name), name)


FIELDS = (
    *("text", "input_ids", "rid", "stream", "return_logprob", "logprob_start_len", "top_logprobs_num"),
    *("token_ids_logprob", "return_text_in_logprobs", "return_hidden_states", "lora_path"),
)
LIKELY_FIELDS = (
    JSON_VALUES
    | st.lists(st.integers(0, 9), max_size=3)
    | st.lists(st.text(max_size=2), max_size=2)
    | st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2)
)


def without_nulls_in_lists(body: dict[str, Any]) -> bool:
    # Lists of tokens may be null in a batch here, as SGLang's documentation has it.
    given = body.get("token_ids_logprob")
    return not (isinstance(given, list) and None in given)


@given(st.dictionaries(st.sampled_from(FIELDS), LIKELY_FIELDS, max_size=3).filter(without_nulls_in_lists))
def test_bodies_that_break_the_contract_are_refused(contract: ModuleType, body: dict[str, Any]) -> None:
    _, broken = outcome(contract.decode_GenerateRequest, body, contract.JsonContractError)
    _, refused = outcome(check_body, body, ReplyError)
    if broken is not None:
        assert refused is not None, broken


VALID: dict[str, st.SearchStrategy[Any]] = {
    "max_new_tokens": st.none() | st.integers(0, 500),
    "temperature": st.floats(0, 3),
    "top_p": st.floats(0.01, 1),
    "top_k": st.just(-1) | st.integers(1, 100),
    "stop": st.text(min_size=1) | st.lists(st.text(min_size=1), max_size=3) | st.tuples(st.text(min_size=1)),
    "stop_token_ids": st.lists(st.integers(0, 99), max_size=3) | st.sets(st.integers(0, 99)),
    "json_schema": st.just({"type": "object"}) | st.just("{}"),
    "logit_bias": st.dictionaries(st.integers(0, 99), st.floats(-100, 100), max_size=2),
    "n": st.integers(1, 3),
    "sampling_seed": st.integers(-(2**63), 2**63 - 1),
    "ignore_eos": st.booleans(),
    "return_logprob": st.booleans(),
    "top_logprobs_num": st.integers(0, 5),
    "logprob_start_len": st.integers(-1, 5),
    "token_ids_logprob": st.lists(st.integers(0, 99), max_size=3),
    "return_prompt_token_ids": st.booleans(),
}


@st.composite
def client_requests(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(sorted(VALID)), unique=True, max_size=5))
    ids = st.lists(st.integers(0, 99), min_size=1, max_size=4)
    text = st.text(st.characters(codec="utf-8"), max_size=8)
    prompt = draw(
        text
        | ids
        | ids.map(tuple)
        | st.lists(text, min_size=1, max_size=3)
        | st.lists(ids, min_size=1, max_size=3)
    )
    arguments = {name: draw(VALID[name]) for name in names}
    if draw(st.booleans()):
        arguments["rid"] = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4))
    return prompt, arguments


@given(client_requests(), st.booleans())
def test_requests_of_the_client_keep_the_contract(
    contract: ModuleType, request: tuple[Any, dict[str, Any]], stream: bool
) -> None:
    prompt, arguments = request
    body = json.loads(json.dumps(build_generate_request(prompt, stream=stream, **arguments).body))
    decoded = contract.decode_GenerateRequest(body)
    assert bool(decoded.stream) == stream
    sent = decoded.sampling_params
    for name in arguments.keys() & {"max_new_tokens", "temperature", "n", "ignore_eos", "sampling_seed"}:
        assert getattr(sent, name) == arguments[name]
    check_body(body)


@given(sampling_params())
def test_the_client_sends_nothing_that_breaks_the_contract(
    contract: ModuleType, params: dict[str, Any]
) -> None:
    try:
        body = build_generate_request(PROMPT, sampling_params=params).body
    except (ArgumentTypeError, ArgumentValueError):
        return
    contract.decode_GenerateRequest(json.loads(json.dumps(body)))
