"""Checks of what a server says about itself, and of its keys."""

from __future__ import annotations

import json
import os
from typing import Any

import requests
from support.server_client import ServerClient, generate_body, wait_until

from conformance.suite import LONG, PROMPT, check, form, reply


@check("service: who answers")
def _(server: ServerClient) -> Any:
    paths = ("/", "/health", "/health_generate", "/ready", "/ping")
    return {path: reply(server.get(path), exact=True) for path in paths} | {
        "HEAD /": server.request("HEAD", "/").status_code,
        "unknown route": reply(server.get("/nope"), exact=True),
        "wrong method": reply(server.get("/generate"), exact=True),
    }


@check("service: model_info")
def _(server: ServerClient) -> Any:
    info = server.get("/model_info").json()
    assert server.get("/get_model_info").json() == info
    assert os.path.isdir(info["model_path"])
    known = ("is_generation", "weight_version", "model_type", "architectures", "preferred_sampling_params")
    return {"form": form(info)} | {name: info[name] for name in known}


@check("service: server_info")
def _(server: ServerClient) -> Any:
    answer = server.get("/server_info")
    info = answer.json()
    assert server.get("/get_server_info").json().keys() == info.keys()
    documented = ("model_path", "tp_size", "dp_size", "max_total_tokens", "max_running_requests", "port")
    read = ("version", "incremental_streaming_output", "stream_interval", "max_total_num_tokens")
    figures = ("last_gen_throughput", "effective_max_running_requests_per_dp", "memory_usage", "world_size")
    internal = info["internal_states"][0]
    return {
        "fields": {name: form(info[name]) for name in (*documented, *read, "max_req_input_len")},
        "shows the key": bool(server.api_key) and server.api_key in answer.text,
        "limits": [info["max_total_num_tokens"], info["max_running_requests"]],
        "internal_states": {name: form(internal[name]) for name in figures if name != "memory_usage"},
        "memory_usage": sorted({"weight", "kvcache", "token_capacity"} & internal["memory_usage"].keys()),
    }


@check("service: models")
def _(server: ServerClient) -> Any:
    answer = server.get("/v1/models")
    (card,) = answer.json()["data"]
    assert server.get(f"/v1/models/{card['id']}").json() == card
    return {
        "list": reply(answer),
        "max_model_len": card["max_model_len"],
        "unknown": reply(server.get("/v1/models/nope"), exact=True),
    }


@check("service: loads")
def _(server: ServerClient) -> Any:
    server.wait_idle()
    answer = server.get("/v1/loads?include=all")
    body = answer.json()
    (load,) = body["loads"]
    idle = ("num_running_reqs", "num_waiting_reqs", "num_used_tokens", "max_running_requests", "dp_rank")
    return {
        "form": form({**body, "loads": []}),
        "load": {
            name: form(value)
            for name, value in load.items()
            if name not in ("decode_moments", "disaggregation")
        },
        "idle": {name: load[name] for name in idle},
        "max_total_num_tokens": load["max_total_num_tokens"],
    }


@check("service: loads of a busy server")
def _(server: ServerClient) -> Any:
    with server.stream(["One", "Two", "Three"], **LONG) as events:
        next(events)
        wait_until(lambda: server.load()["num_running_reqs"] == 3)
        load = server.load()
    server.post("/abort_request", {"abort_all": True})
    server.wait_idle()
    assert 0 < load["num_used_tokens"] <= load["max_total_num_tokens"]
    assert 0 <= load["token_usage"] <= 1
    return {"running": load["num_running_reqs"], "waiting": load["num_waiting_reqs"]}


@check("service: metrics")
def _(server: ServerClient) -> Any:
    server.generate(PROMPT, max_new_tokens=3)
    answer = server.get("/metrics")
    read = {
        *("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage", "sglang:gen_throughput"),
        *("sglang:cache_hit_rate", "sglang:time_to_first_token_seconds", "sglang:prompt_tokens_total"),
        *(
            "sglang:generation_tokens_total",
            "sglang:e2e_request_latency_seconds",
            "sglang:num_requests_total",
        ),
    }
    kinds = dict(line.split()[2:4] for line in answer.text.splitlines() if line.startswith("# TYPE sglang:"))
    return reply(answer) | {"kinds": {name: kinds.get(name) for name in sorted(read)}}


@check("service: pages of other origins")
def _(server: ServerClient) -> Any:
    asked = {
        "Origin": "http://localhost:8888",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    local = server.request("OPTIONS", "/generate", headers=asked)
    far = server.request("OPTIONS", "/generate", headers=asked | {"Origin": "http://example.org"})
    return {
        "this machine": [local.status_code, local.headers.get("Access-Control-Allow-Origin")],
        "elsewhere": [far.status_code, far.headers.get("Access-Control-Allow-Origin")],
    }


@check("keys")
def _(server: ServerClient) -> Any:
    assert server.api_key is not None
    body = json.dumps(generate_body(PROMPT, max_new_tokens=1))

    def ask(method: str, path: str, authorization: str | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": authorization}  # None is not sent
        data = body if method == "POST" else None
        return requests.request(method, server.url + path, headers=headers, data=data, timeout=60)

    refused = {
        path: reply(ask("GET", path), exact=True)
        for path in ("/model_info", "/server_info", "/v1/models", "/v1/loads", "/ping", "/", "/nope")
    }
    return {
        "without": refused | {"/generate": reply(ask("POST", "/generate"), exact=True)},
        "open": {path: ask("GET", path).status_code for path in ("/health", "/ready", "/metrics")},
        "wrong": reply(ask("POST", "/generate", "Bearer wrong"), exact=True),
        "no scheme": reply(ask("POST", "/generate", server.api_key), exact=True),
        "small bearer": ask("POST", "/generate", f"bearer {server.api_key}").status_code,
        "right": ask("POST", "/generate", f"Bearer {server.api_key}").status_code,
        "abort": reply(ask("POST", "/abort_request"), exact=True),
    }
