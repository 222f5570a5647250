"""Exchanges recorded with a real SGLang server: the embedded server answers each request as SGLang did.

The model and its weights are the same, so greedy texts, tokens and log-probabilities are, too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support import sglang_records
from support.embedded_server import EmbeddedServer
from support.server_client import generate_body
from support.sglang_records import Exchange, load

pytestmark = pytest.mark.model

ALL = [name for name in sglang_records.names("") if name != "generate_CRASH_text_empty"]
"""All but the one that has no answer: it killed SGLang's server. See test_embedded_robustness.py."""

NOT_SERVED = [
    *sglang_records.names("chat_", "completions_", "v1_messages", "v1_rerank", "v1_responses", "v1_score"),
    *sglang_records.names("v1_embeddings", "classify", "open_session", "close_session", "pause", "continue"),
    *sglang_records.names("parse_function_call", "separate_reasoning", "release_memory", "resume_memory"),
    *sglang_records.names("freeze_gc", "slow_down", "set_internal_state", "get_weights_by_name", "load_lora"),
    *sglang_records.names("update_weights", "get_list_external_corpora"),
]

SERVED_OTHERWISE = {
    "generate_session": "there are no sessions: /open_session answers 501, and no session has an id",
    "generate_err_batch_params_mismatch": "a list of the wrong length gets an answer, not an unhandled error",
    "options_cors": "without a key only pages of this machine may ask; SGLang lets every page",
}
"""Requests that are meant to be answered in another way, and why; each has a test of its own."""

PROFILE = ("start_profile", "stop_profile", "generate_while_profiling")
GENERATE = [
    name
    for name in ALL
    if load(name).path == "/generate" and name not in SERVED_OTHERWISE
    if not name.startswith(("auth_", "get_", *PROFILE))
]
ANSWERS = [name for name in GENERATE if load(name).status == 200 and "stream" not in name]
ERRORS = [name for name in GENERATE if load(name).status != 200]
STREAMS = [name for name in GENERATE if "stream" in name]
CONTROL = sglang_records.names(
    "abort_", "flush_cache", "tokenize", "v1_tokenize", "detokenize", "v1_detokenize"
)

HIERARCHICAL_CACHE = {"storage_prefetch_wait", "storage_staging_wait"}
"""Waiting times of SGLang's cache on disk, which the embedded server does not have."""

MESSAGES_OTHERWISE = {
    "generate_err_text_plain": "names SGLang's class",
    "generate_err_array_body": "names SGLang's class",
    "generate_err_invalid_json": "quotes the JSON parser",
    "generate_bad_regex": "quotes the grammar compiler",
    "tokenize_err": "prints an exception of Python",
}
"""Errors whose message is not SGLang's own."""

FINISH_REASONS = {
    "stop": {"type", "matched"},
    "length": {"type", "length"},
    "abort": {"type", "message", "status_code", "err_type"},
}
"""What each kind of end says of itself."""

LOGPROBS = ("input_token_logprobs", "output_token_logprobs")
CHOSEN = ("input_token_ids_logprobs", "output_token_ids_logprobs")
TOP = ("input_top_logprobs", "output_top_logprobs")

deviations: dict[str, float] = {}
"""Largest difference to a recorded log-probability, by exchange."""


@pytest.fixture(scope="module", autouse=True)
def print_deviations() -> Iterator[None]:
    yield
    if deviations:
        worst = max(deviations, key=deviations.__getitem__)
        print(
            f"\nlargest deviation of {len(deviations)} exchanges with log-probabilities: "
            f"{deviations[worst]:.1e} ({worst})"
        )


def replay(server: EmbeddedServer, exchange: Exchange) -> requests.Response:
    headers = {name: value for name, value in exchange.headers.items() if name != "Authorization"}
    return server.request(exchange.method, exchange.path, exchange.payload(), headers=headers)


def check_head(answer: requests.Response, exchange: Exchange) -> None:
    assert answer.status_code == exchange.status, answer.text
    if exchange.content_type is not None:
        assert answer.headers["Content-Type"].split(";")[0] == exchange.content_type.split(";")[0]


def check_types(ours: Any, theirs: Any, where: str = "") -> None:
    """The same JSON types at the same places; numbers may be whole or not, lists of any length."""
    if theirs is None or ours is None:
        return  # what may be null is compared where its value matters
    assert kind(ours) == kind(theirs), where
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for name, value in theirs.items():
            check_types(ours[name], value, f"{where}.{name}")
    elif isinstance(theirs, list) and theirs:
        for each in ours:
            check_types(each, theirs[0], f"{where}[]")


def kind(value: Any) -> str:
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def check_answer(ours: dict[str, Any], theirs: dict[str, Any], exchange: Exchange) -> None:
    """One sequence's answer."""
    check_types({**ours, "meta_info": {}}, {**theirs, "meta_info": {}})
    meta, recorded = ours["meta_info"], theirs["meta_info"]
    assert meta.keys() == recorded.keys() - HIERARCHICAL_CACHE
    chance = () if exchange.greedy else ("finish_reason",)  # what was sampled may end in another way
    for name in meta.keys() - {*LOGPROBS, *CHOSEN, *TOP, *chance}:
        check_types(meta[name], recorded[name], name)
    for reason in (meta["finish_reason"], recorded["finish_reason"]):
        assert reason is None or reason.keys() == FINISH_REASONS[reason["type"]]
    same_for_all = ("prompt_tokens", "weight_version", "num_retractions", "reasoning_tokens", "dp_rank")
    assert [meta[name] for name in same_for_all] == [recorded[name] for name in same_for_all]
    if exchange.body.get("rid") is not None:
        assert meta["id"] == recorded["id"]
    if not exchange.greedy:
        return
    assert (ours["text"], ours["output_ids"]) == (theirs["text"], theirs["output_ids"])
    for name in ("finish_reason", "completion_tokens", "weight_versions", "output_token_logprobs_length"):
        assert meta.get(name) == recorded.get(name)
    for name in LOGPROBS:
        if name in recorded:
            check_logprobs(meta[name], recorded[name], exchange)
    for name in (*CHOSEN, *TOP):
        assert len(meta.get(name, ())) == len(recorded.get(name, ()))
        for row, recorded_row in zip(meta.get(name, ()), recorded.get(name, ()), strict=True):
            assert (row is None) == (recorded_row is None)
            if row is not None:
                check_logprobs(row, recorded_row, exchange)


def check_logprobs(ours: list[Any], theirs: list[Any], exchange: Exchange) -> None:
    assert [entry[1:] for entry in ours] == [entry[1:] for entry in theirs]
    for (value, *_), (recorded, *_) in zip(ours, theirs, strict=True):
        if recorded is None:
            assert value is None
            continue
        deviation = abs(value - recorded)
        deviations[exchange.name] = max(deviation, deviations.get(exchange.name, 0))
        assert deviation < 1e-3


def test_every_exchange_is_replayed() -> None:
    replayed = {*ANSWERS, *ERRORS, *STREAMS, *CONTROL, *NOT_SERVED, *SERVED_OTHERWISE}
    replayed |= {*sglang_records.names("get_", "auth_", "encode_", *PROFILE)}
    print(f"{len(replayed)} exchanges: {len(ANSWERS)} answers, {len(ERRORS)} errors, {len(STREAMS)} streams")
    assert replayed == set(ALL)
    compared = replayed - {*NOT_SERVED, *SERVED_OTHERWISE}
    document = Path(__file__).parents[2] / "docs" / "compatibility.md"
    assert f"{len(compared)} recorded exchanges" in document.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ANSWERS)
def test_answer(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    check_head(answer, exchange)
    ours, theirs = answer.json(), exchange.json
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        ours, theirs = [ours], [theirs]
    assert len(ours) == len(theirs)
    for mine, recorded in zip(ours, theirs, strict=True):
        check_answer(mine, recorded, exchange)


@pytest.mark.parametrize("name", ERRORS)
def test_error(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    check_head(answer, exchange)
    check_error(answer.json(), exchange.json, name)


def check_error(ours: Any, theirs: Any, name: str) -> None:
    check_types(ours, theirs)
    if name in MESSAGES_OTHERWISE:
        message = ours.get("message") or ours["error"]["message"]
        recorded = theirs.get("message") or theirs["error"]["message"]
        assert message.split(":")[0] == recorded.split(":")[0]
        return
    if "message" in theirs:  # what is wrong, then a line of SGLang's own source
        theirs = theirs | {"message": theirs["message"].partition("\n\n  File ")[0]}
    assert ours == theirs


@pytest.mark.parametrize("name", STREAMS)
def test_stream(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    check_head(answer, exchange)
    ours, theirs = sglang_records.events(answer.content.decode()), sglang_records.events(exchange.text)
    if "error" in theirs[0]:
        assert ours == theirs
        return
    assert {event.get("index") for event in ours} == {event.get("index") for event in theirs}
    for index in {event.get("index") for event in theirs}:
        mine, recorded = ([event for event in each if event.get("index") == index] for each in (ours, theirs))
        check_answer(mine[-1], recorded[-1], exchange)
        for events in (mine, recorded):
            check_growth(events)
        if exchange.greedy and not isinstance(exchange.body["text"], list):
            # Either server sends what has piled up as one event; a lone stream of SGLang showed every step.
            steps = {json.dumps((event["text"], event["output_ids"])) for event in recorded}
            assert {json.dumps((event["text"], event["output_ids"])) for event in mine} <= steps
            by_length = {event["meta_info"]["completion_tokens"]: event for event in recorded}
            for event in mine[1:-1]:
                check_answer(event, by_length[event["meta_info"]["completion_tokens"]], exchange)


def check_growth(events: list[dict[str, Any]]) -> None:
    """Texts and tokens of one sequence only grow, and only the last event says how it ended."""
    assert [event["meta_info"]["finish_reason"] is None for event in events] == [True] * (len(events) - 1) + [
        False
    ]
    assert len({event["meta_info"]["id"] for event in events}) == 1
    sent = [event["meta_info"].get("response_sent_to_client_ts") for event in events]
    assert sent[0] == sent[-1] is not None
    assert not any(sent[1:-1])
    for earlier, later in itertools.pairwise(events):
        assert later["text"].startswith(earlier["text"])
        assert later["output_ids"][: len(earlier["output_ids"])] == earlier["output_ids"]


@pytest.mark.parametrize("name", CONTROL)
def test_control(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    check_head(answer, exchange)
    if exchange.status >= 400:
        check_error(answer.json(), exchange.json, name)
    elif exchange.content_type == "application/json":
        assert answer.json() == exchange.json
    else:
        assert answer.text == exchange.text


@pytest.mark.parametrize("name", NOT_SERVED)
def test_a_route_that_is_not_served_says_so(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    assert answer.status_code == 501
    body = answer.json()
    assert body.keys() == {"object", "message", "type", "param", "code"}
    assert (body["object"], body["code"]) == ("error", 501)
    assert exchange.path in body["message"]


def test_a_session_is_refused(server: EmbeddedServer) -> None:
    answer = replay(server, load("generate_session"))
    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "Invalid request: session id s1 does not exist"}}


def test_sampling_params_of_another_number_are_refused(server: EmbeddedServer) -> None:
    answer = replay(server, load("generate_err_batch_params_mismatch"))
    assert answer.status_code == 400
    assert "1 entries for 2 prompts" in answer.json()["error"]["message"]


def test_without_a_key_only_pages_of_this_machine_are_allowed(server: EmbeddedServer) -> None:
    exchange = load("options_cors")
    assert replay(server, exchange).status_code == 403
    local = server.request(
        "OPTIONS", exchange.path, headers=exchange.headers | {"Origin": "http://localhost:8888"}
    )
    assert (local.status_code, local.text) == (200, exchange.text)
    assert local.headers["Access-Control-Allow-Origin"] == "http://localhost:8888"


@pytest.mark.parametrize("name", sglang_records.names("auth_"))
def test_keys(guarded_server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = requests.request(
        exchange.method,
        guarded_server.url + exchange.path,
        data=exchange.payload(),
        headers=exchange.headers,
        timeout=60,
    )
    check_head(answer, exchange)
    if exchange.status == 401:
        assert answer.json() == exchange.json
    elif name == "auth_options":
        assert answer.headers["Access-Control-Allow-Origin"] == exchange.headers["Origin"]
        assert answer.text == exchange.text
    elif exchange.path == "/generate":
        check_answer(answer.json(), exchange.json, exchange)


def test_abort_of_running_requests(server: EmbeddedServer) -> None:
    theirs = json.loads((sglang_records.RECORDS / "abort_running_nonstream.body").read_text())
    stream = sglang_records.events((sglang_records.RECORDS / "abort_running_stream.sse").read_text())
    duplicate = json.loads((sglang_records.RECORDS / "duplicate_rid.txt").read_text().splitlines()[0])
    exchange = Exchange("abort", "POST", "/generate", {}, {"rid": "abort-me"}, 200, None, "")
    with server.stream(
        "Once upon a time", fields={"rid": "abort-me"}, max_new_tokens=400, ignore_eos=True
    ) as events:
        first = next(events)
        again = server.post("/generate", generate_body("Hi", {"rid": "abort-me"}, max_new_tokens=1))
        assert (again.status_code, again.json()) == (400, duplicate)
        assert server.post("/abort_request", {"rid": "abort-me"}).status_code == 200
        last = [first, *events][-1]
    assert last["meta_info"]["finish_reason"] == stream[-1]["meta_info"]["finish_reason"]
    assert last["text"].startswith(first["text"])
    check_answer(last, stream[-1] | {"index": 0} if "index" in last else stream[-1], exchange)
    assert theirs["meta_info"]["finish_reason"] == last["meta_info"]["finish_reason"]


def test_profiling(server: EmbeddedServer, tmp_path: Path) -> None:
    order = [
        "stop_profile_not_running",
        "start_profile_body",
        "generate_while_profiling2",
        "stop_profile_body",
    ]
    for name in order:
        exchange = load(name)
        if name == "start_profile_body":
            exchange.body["output_dir"] = str(tmp_path)
        answer = replay(server, exchange)
        check_head(answer, exchange)
        assert answer.text.startswith(exchange.text) or exchange.path == "/generate"
    assert [path.name.endswith("-TP-0.trace.json.gz") for path in tmp_path.iterdir()] == [True]


def test_model_info(server: EmbeddedServer) -> None:
    for name in ("get_model_info", "get_get_model_info"):
        exchange = load(name)
        answer = replay(server, exchange)
        check_head(answer, exchange)
        ours, theirs = answer.json(), exchange.json
        theirs.pop("embedding")  # how a GPU server runs embedding models
        check_types(ours, theirs)
        named = {"model_path", "served_model_name", "tokenizer_path"}
        assert {key: ours[key] for key in ours.keys() - named} == {
            key: theirs[key] for key in ours.keys() - named
        }


def test_models(server: EmbeddedServer) -> None:
    exchange = load("get_v1_models")
    ours, theirs = replay(server, exchange).json(), exchange.json
    check_types(ours, theirs)
    assert ours["data"][0]["max_model_len"] == theirs["data"][0]["max_model_len"]
    assert server.get(f"/v1/models/{ours['data'][0]['id']}").json() == ours["data"][0]


def test_server_info(server: EmbeddedServer) -> None:
    exchange = load("get_server_info")
    answer = replay(server, exchange)
    check_head(answer, exchange)
    ours, theirs = answer.json(), exchange.json
    assert server.get("/get_server_info").json().keys() == ours.keys()
    own = {"allowed_hosts", "engine", "precision", "fd", "threads", "max_body_bytes", "random_seed"}
    print(
        f"{len(ours)} of SGLang's {len(theirs)} fields; not in SGLang: {sorted(ours.keys() - theirs.keys())}"
    )
    assert ours.keys() - theirs.keys() <= own
    for name in ours.keys() & theirs.keys() - {"internal_states", "startup_time"}:
        check_types(ours[name], theirs[name], name)
    internal, recorded = ours["internal_states"][0], theirs["internal_states"][0]
    read_by_clients = {
        "last_gen_throughput",
        "effective_max_running_requests_per_dp",
        "memory_usage",
        "world_size",
        "startup_time",
    }
    assert read_by_clients <= internal.keys() & recorded.keys()
    assert {"weight", "kvcache", "token_capacity"} <= internal["memory_usage"].keys() & recorded[
        "memory_usage"
    ].keys()


@pytest.mark.parametrize("name", ["get_v1_loads", "get_v1_loads_include_all"])
def test_loads(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    check_head(answer, exchange)
    ours, theirs = answer.json(), exchange.json
    check_types({**ours, "loads": []}, {**theirs, "loads": []})
    (mine,), (recorded,) = ours["loads"], theirs["loads"]
    # Sums of decoding times, and the queues of servers that split prefill from decoding.
    assert recorded.keys() - mine.keys() == {"decode_moments", "disaggregation"} & recorded.keys()
    for key in mine.keys() & recorded.keys() - {"memory"}:
        check_types(mine[key], recorded[key], key)
    if "memory" in recorded:
        assert recorded["memory"].keys() <= mine["memory"].keys()


def test_metrics_have_names_and_kinds_of_sglang(server: EmbeddedServer) -> None:
    ours = {
        name: kind
        for _, _, name, kind in (
            line.split()
            for line in server.get("/metrics").text.splitlines()
            if line.startswith("# TYPE sglang")
        )
        if not name.endswith("_created")
    }
    theirs = sglang_records.metric_types()
    print(f"{len(ours)} of SGLang's {len(theirs)} metrics")
    assert len(ours) > 10
    # SGLang shows these only once they have counted something.
    later = {"num_aborted_requests_total", "cached_tokens_total", "inter_token_latency_seconds"}
    assert ours.keys() - theirs.keys() <= {f"sglang:{name}" for name in later}
    assert {name: theirs.get(name, ours[name]) for name in ours} == ours


PLAIN = [
    *("get_health", "get_health_generate", "get_ping", "get_ready", "get_root", "get_nope", "get_get_load"),
    *("get_generate", "get_v1_models_default", "get_v1_models_nope", "encode_not_embedding"),
]


@pytest.mark.parametrize("name", PLAIN)
def test_plain(server: EmbeddedServer, name: str) -> None:
    exchange = load(name)
    answer = replay(server, exchange)
    check_head(answer, exchange)
    if exchange.content_type == "application/json":
        assert answer.json() == exchange.json
    else:
        assert answer.text == exchange.text
