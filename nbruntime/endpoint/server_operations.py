"""What the clients ask of the server itself, without input or output; see `nbruntime.endpoint.operations`.

Where SGLang has renamed a route, the new name is tried first, then the old one.
"""

from __future__ import annotations

from typing import Any

from nbruntime.endpoint.base_client import checked_path, checked_seconds
from nbruntime.endpoint.cards import ModelInfo, ServerInfo
from nbruntime.endpoint.http import HttpRequest, HttpResponse, Operation, get
from nbruntime.endpoint.server_capabilities import ServerCapabilities
from nbruntime.errors import NotFoundError, ProtocolError, ServerFailureError, TransportError
from nbruntime.protocol.load import Load, read_loads
from nbruntime.protocol.profile import build_profile_request
from nbruntime.secrets import without_secrets


def first_served(*requests: HttpRequest) -> Operation[HttpResponse]:
    """Send one request after the other, until the server knows the route."""
    refusal: NotFoundError | None = None
    for request in requests:
        try:
            answer: HttpResponse = yield request
        except NotFoundError as error:
            refusal = refusal or error
        else:
            return answer
    assert refusal is not None
    raise refusal


def read_text(path: str, timeout: float | None) -> Operation[str]:
    """Read any route as text."""
    seconds = checked_seconds("timeout", timeout)
    answer: HttpResponse = yield HttpRequest("GET", checked_path(path), safe=True, limits=(seconds, seconds))
    return answer.text()


def read_model_info(capabilities: ServerCapabilities) -> Operation[dict[str, Any]]:
    """Read the description of the model, once."""
    if capabilities.model_info is None:
        answer = yield from first_served(get("/model_info"), get("/get_model_info"))
        info = _description(answer)
        if "model_path" not in info:
            raise _not_sglang(answer)
        capabilities.is_old = answer.path == "/get_model_info"
        capabilities.model_info = ModelInfo(info)
    return capabilities.model_info


def read_server_info(capabilities: ServerCapabilities) -> Operation[dict[str, Any]]:
    """Read the configuration and the state of the server."""
    answer = yield from first_served(get("/server_info"), get("/get_server_info"))
    # The answer may be shown in a notebook, and SGLang's own key is among its arguments.
    capabilities.server_info = ServerInfo(without_secrets(_description(answer), answer.settings.secret))
    return capabilities.server_info


def read_models() -> Operation[list[dict[str, Any]]]:
    """Read the cards of the models that are served."""
    answer: HttpResponse = yield get("/v1/models")
    cards = _description(answer).get("data")
    if not isinstance(cards, list):
        raise _not_sglang(answer)
    return cards


def read_load() -> Operation[list[Load]]:
    """Read how busy the server is."""
    answer = yield from first_served(get("/v1/loads"), get("/get_load"), get("/workers"))
    return read_loads(answer.json(), where=answer.url)


def is_healthy() -> Operation[bool]:
    """Ask whether the server can generate."""
    try:
        yield get("/health")
    except (ServerFailureError, TransportError):
        return False
    return True


def _description(answer: HttpResponse) -> dict[str, Any]:
    info = answer.json()
    if not isinstance(info, dict):
        raise _not_sglang(answer)
    return info


def _not_sglang(answer: HttpResponse) -> ProtocolError:
    return ProtocolError("The answer does not describe an SGLang server", where=answer.url)


def flush_cache() -> Operation[None]:
    """Empty the KV cache."""
    yield HttpRequest("POST", "/flush_cache", safe=True)


def abort_all() -> Operation[None]:
    """Stop every request on the server."""
    yield HttpRequest("POST", "/abort_request", {"rid": "", "abort_all": True}, safe=True)


def start_profile(options: dict[str, Any]) -> Operation[None]:
    """Start the server's profiler."""
    yield HttpRequest("POST", "/start_profile", build_profile_request(options))


def stop_profile() -> Operation[None]:
    """Stop the server's profiler, and wait until the traces are written."""
    yield HttpRequest("POST", "/stop_profile")
