"""Routes about the server's state and model."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from nbruntime._version import __version__
from nbruntime.embedded.http.metrics import CONTENT_TYPE
from nbruntime.embedded.http.replies import json_reply
from nbruntime.embedded.http.state import ServerState, json_safe, state_of
from nbruntime.embedded.service.errors import ReplyError
from nbruntime.embedded.service.service import Service

GIB = 2**30


async def root(request: web.Request) -> web.Response:
    """Serve ``/``."""
    return json_reply("SGLang is running")


async def health(request: web.Request) -> web.Response:
    """Serve ``/health``, ``/health_generate``, ``/ready`` and ``/ping``: 200 if ready, else 503."""
    return web.Response(status=200 if state_of(request).ready else 503)


async def model_info(request: web.Request) -> web.Response:
    """Serve ``/model_info``."""
    state = state_of(request)
    service = state.service
    return json_reply(
        {
            "model_path": service.model_path,
            "served_model_name": service.served_name,
            "tokenizer_path": service.tokenizer_path,
            "is_generation": not state.arguments.is_embedding,
            "preferred_sampling_params": None,
            "weight_version": state.arguments.weight_version,
            "load_format": "auto",
            "reasoning_parser": None,
            "tool_call_parser": None,
            "disaggregation_mode": "null",
            "has_image_understanding": False,
            "has_audio_understanding": False,
            "model_type": service.facts.model_type,
            "architectures": list(service.facts.architectures),
        }
    )


async def server_info(request: web.Request) -> web.Response:
    """Serve ``/server_info``."""
    state = state_of(request)
    service = state.service
    scheduler = service.engine.scheduler
    cache = scheduler.cache
    weight_gb, cache_gb = _memory_gb(service)
    own = state.arguments.public() | {
        "model_path": service.model_path,
        "tokenizer_path": service.tokenizer_path,
        "served_model_name": service.served_name,
        "context_length": service.context_length,
        "device": "cpu",
        "tp_size": 1,
        "dp_size": 1,
        "pp_size": 1,
        "max_running_requests": scheduler.max_running,
        "max_total_tokens": cache.capacity,
        "chunked_prefill_size": scheduler.chunk,
        "precision": service.facts.precision,
        "engine": "nbruntime.embedded",
    }
    internal = own | {
        "last_gen_throughput": service.engine.stats.throughput,
        "effective_max_running_requests_per_dp": scheduler.max_running,
        "memory_usage": {"weight": weight_gb, "kvcache": cache_gb, "token_capacity": cache.capacity},
        "world_size": 1,
        "startup_time": state.startup_seconds,
    }
    return json_reply(
        json_safe(
            own
            | {
                "status": "ready" if state.ready else state.phase,
                "max_total_num_tokens": cache.capacity,
                "max_req_input_len": service.context_length - 1,
                "startup_time": state.startup_seconds,
                "kv_events": None,
                "internal_states": [internal],
                "version": __version__,
                "frontend": "python",
            }
        )
    )


async def models(request: web.Request) -> web.Response:
    """Serve ``/v1/models``."""
    return json_reply({"object": "list", "data": [_card(state_of(request))]})


async def model(request: web.Request) -> web.Response:
    """Serve ``/v1/models/NAME``."""
    state = state_of(request)
    name = request.match_info["name"]
    if name != state.service.served_name:
        message = f"The model '{name}' does not exist"
        kind = "invalid_request_error"
        error = {"message": message, "type": kind, "param": "model", "code": "model_not_found"}
        raise ReplyError(404, {"error": error}, message)
    return json_reply(_card(state))


def _card(state: ServerState) -> dict[str, Any]:
    service = state.service
    return {
        "id": service.served_name,
        "object": "model",
        "created": int(state.started),
        "owned_by": "sglang",
        "root": service.served_name,
        "parent": None,
        "max_model_len": service.context_length,
    }


async def loads(request: web.Request) -> web.Response:
    """Serve ``/v1/loads``: running and waiting requests, use of the cache."""
    state = state_of(request)
    engine = state.service.engine
    scheduler, cache, stats = engine.scheduler, engine.scheduler.cache, engine.stats
    running = len(scheduler.running) + len(scheduler.extending)
    waiting = list(scheduler.waiting)
    weight_gb, cache_gb = _memory_gb(state.service)
    now = time.time()
    load = {
        "timestamp": now,
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": len(waiting),
        "num_waiting_uncached_tokens": sum(each.length for each in waiting),
        "num_used_tokens": cache.used,
        "num_total_tokens": cache.used + sum(each.length for each in waiting),
        "num_active_tokens": cache.used,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": cache.capacity,
        "max_running_requests": scheduler.max_running,
        "token_usage": round(cache.used / cache.capacity, 4),
        "gen_throughput": round(stats.throughput, 2) if running else 0.0,
        "cache_hit_rate": round(stats.cache_hit_rate, 4),
        "utilization": round(running / scheduler.max_running, 4),
        "total_prefill_uncached_tokens": stats.extended_tokens,
        "total_prefill_busy_us": int(stats.extend_seconds * 1e6),
        "memory": {
            "weight_gb": weight_gb,
            "kv_cache_gb": cache_gb,
            "graph_gb": 0.0,
            "token_capacity": cache.capacity,
        },
        "queues": {"waiting": len(waiting), "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0},
    }
    stamp = datetime.fromtimestamp(now, UTC).isoformat()
    return json_reply(
        {
            "timestamp": stamp,
            "version": __version__,
            "accelerator": None,
            "num_accelerators": 0,
            "loads": [load],
        }
    )


def _memory_gb(service: Service) -> tuple[float, float]:
    """Give the memory of weights and KV cache in GiB, which SGLang calls GB."""
    cache = service.engine.scheduler.cache.capacity * service.facts.kv_bytes_per_token
    return round(service.facts.weight_bytes / GIB, 3), round(cache / GIB, 3)


async def metrics(request: web.Request) -> web.Response:
    """Serve ``/metrics``; 404 with ``--no-enable-metrics``, as SGLang without ``--enable-metrics``."""
    state = state_of(request)
    if not state.arguments.enable_metrics:
        raise ReplyError(
            404, {"detail": "Not Found"}, "metrics are off; start the server without --no-enable-metrics"
        )
    engine = state.service.engine if state.ready else None
    return web.Response(body=state.metrics.exposition(engine), headers={"Content-Type": CONTENT_TYPE})
