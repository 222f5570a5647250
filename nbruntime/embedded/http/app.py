"""The web application: routes, keys, errors."""

from __future__ import annotations

import asyncio
import hmac
import logging

from aiohttp import hdrs, web

from nbruntime.embedded.http import control, generate, info, steps
from nbruntime.embedded.http.origins import Handler, OriginRules
from nbruntime.embedded.http.replies import json_reply, text_reply
from nbruntime.embedded.http.state import STATE, ServerState, state_of
from nbruntime.embedded.service.errors import ReplyError, http_error
from nbruntime.protocol import step_log

logger = logging.getLogger(__name__)

_OPEN_PREFIXES = ("/health", "/ready", "/metrics")
"""Paths that need no key, as with SGLang."""

_ADMIN_PATHS = frozenset({"/flush_cache", "/abort_request", "/start_profile", "/stop_profile"})
"""Paths that take the admin key where there is one."""

_UNSERVED = frozenset(
    {
        "/classify",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/classify",
        "/v1/rerank",
        "/v1/score",
        "/v1/decisions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/audio/transcriptions",
        "/v1/systemone",
        "/open_session",
        "/close_session",
        "/set_internal_state",
        "/configure_logging",
        "/freeze_gc",
        "/slow_down",
        "/pause_generation",
        "/continue_generation",
        "/update_weights_from_disk",
        "/update_weights_from_tensor",
        "/update_weights_from_distributed",
        "/update_weights_from_ipc",
        "/update_weight_version",
        "/begin_weight_update",
        "/end_weight_update",
        "/get_weights_by_name",
        "/init_weights_update_group",
        "/destroy_weights_update_group",
        "/weights_checker",
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/load_lora_adapter",
        "/load_lora_adapter_from_tensors",
        "/unload_lora_adapter",
        "/parse_function_call",
        "/separate_reasoning",
        "/start_expert_distribution_record",
        "/stop_expert_distribution_record",
        "/dump_expert_distribution_record",
        "/set_trace_level",
        "/add_external_corpus",
        "/remove_external_corpus",
        "/list_external_corpora",
        "/hicache/storage-backend",
        "/invocations",
        "/vertex_generate",
        "/api/chat",
        "/api/generate",
        "/api/tags",
        "/api/show",
    }
)
"""SGLang's routes that this server lacks."""


def make_app(state: ServerState) -> web.Application:
    """Make the application; all handlers share `state`."""
    origins = OriginRules(state.arguments)
    app = web.Application(
        middlewares=[_errors, origins.check, _keys], client_max_size=state.arguments.max_body_bytes
    )
    app[STATE] = state
    app.on_response_prepare.append(origins.allow_reading)
    add = app.router.add_route
    # A GET route answers HEAD, too.
    gets: dict[str, Handler] = {
        "/": info.root,
        "/health": info.health,
        "/health_generate": info.health,
        "/ready": info.health,
        "/ping": info.health,
        "/model_info": info.model_info,
        "/get_model_info": info.model_info,
        "/server_info": info.server_info,
        "/get_server_info": info.server_info,
        "/v1/models": info.models,
        "/v1/models/{name:.+}": info.model,
        "/v1/loads": info.loads,
        "/metrics": info.metrics,
        step_log.ROUTE: steps.step_log,
        "/flush_cache": control.flush_cache,
        "/start_profile": control.start_profile,
        "/stop_profile": control.stop_profile,
    }
    posts: dict[str, Handler] = {
        "/generate": generate.generate,
        "/encode": generate.encode,
        "/flush_cache": control.flush_cache,
        "/abort_request": control.abort_request,
        "/start_profile": control.start_profile,
        "/stop_profile": control.stop_profile,
        "/tokenize": control.tokenize,
        "/v1/tokenize": control.tokenize,
        "/detokenize": control.detokenize,
        "/v1/detokenize": control.detokenize,
    }
    for path, handler in gets.items():
        app.router.add_get(path, handler)
    for path, handler in posts.items():
        add(hdrs.METH_POST, path, handler)
    for path in ("/generate", "/encode"):
        add(hdrs.METH_PUT, path, posts[path])
    for path in _UNSERVED:
        add("*", path, _unserved)
    return app


async def _unserved(request: web.Request) -> web.StreamResponse:
    raise http_error(
        501,
        f"{request.path} is a route of SGLang that the embedded server does not serve. "
        "Use engine='sglang' for it.",
        "NotImplemented",
    )


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors in SGLang's shapes."""
    try:
        return await handler(request)
    except ReplyError as error:
        return json_reply(error.body, error.status)
    except web.HTTPRequestEntityTooLarge:
        limit = state_of(request).arguments.max_body_bytes
        too_large = http_error(413, f"The request body is larger than {limit} bytes; see --max-body-bytes.")
        return json_reply(too_large.body, too_large.status)
    except web.RequestPayloadError:
        unreadable = http_error(400, "The request body is not what its headers say.", "Bad Request")
        return json_reply(unreadable.body, unreadable.status)
    except web.HTTPException as refusal:
        return json_reply({"detail": refusal.reason}, refusal.status)
    except (asyncio.CancelledError, ConnectionError):
        raise  # the client has disconnected
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return text_reply("Internal Server Error", status=500)


@web.middleware
async def _keys(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Require a key, by the rules of SGLang's ``srt/utils/auth.py``."""
    arguments = state_of(request).arguments
    api_key, admin_key = arguments.api_key, arguments.admin_api_key
    admin = request.path in _ADMIN_PATHS
    needed = admin_key if admin and admin_key is not None else api_key
    if needed is None or request.method == hdrs.METH_OPTIONS or request.path.startswith(_OPEN_PREFIXES):
        return await handler(request)
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    # Headers and environment variables may hold any bytes.
    one, other = (text.encode(errors="surrogateescape") for text in (given, needed))
    if scheme.lower() == "bearer" and hmac.compare_digest(one, other):
        return await handler(request)
    return json_reply({"error": "Unauthorized"}, 401)
