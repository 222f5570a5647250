"""Cards of clients, and labels and values that describe a server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nbruntime.display.cards import Card, Tone
from nbruntime.display.numbers import time_of_day
from nbruntime.endpoint.server_capabilities import ServerCapabilities
from nbruntime.endpoint.settings import Settings

EMBEDDED = "nbruntime.embedded"
"""The embedded server's ``engine`` in its info."""

_PARALLEL = (("tp_size", "tensor"), ("pp_size", "pipeline"), ("dp_size", "data"), ("ep_size", "expert"))


def server_pairs(server_info: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Describe a server in labels and values, by its `RuntimeEndpoint.get_server_info`.

    Examples
    --------
    >>> server_pairs({"version": "0.5.23", "device": "cuda", "dtype": "bfloat16", "tp_size": 2})
    [('server', 'SGLang 0.5.23'), ('device', 'cuda, bfloat16'), ('parallelism', 'tensor 2')]
    """
    get = server_info.get
    pairs: list[tuple[str, object]] = []
    version = get("version")
    if version:
        name = "embedded server" if get("engine") == EMBEDDED else "SGLang"
        pairs.append(("server", f"{name} {version}"))
    precision = get("precision") or get("quantization") or get("dtype")
    device = [str(part) for part in (get("device"), precision) if part and part != "auto"]
    if device:
        pairs.append(("device", ", ".join(device)))
    if any(get(field) for field, _ in _PARALLEL):
        sizes = [f"{name} {get(field)}" for field, name in _PARALLEL if (get(field) or 1) != 1]
        pairs.append(("parallelism", ", ".join(sizes) or "one rank"))
    longest = get("max_req_input_len")
    if get("context_length"):
        pairs.append(("context", _tokens(get("context_length"))))
    elif longest:
        pairs.append(("context", f"prompts of up to {_tokens(longest)}"))
    if get("max_total_num_tokens"):
        pairs.append(("KV cache", _tokens(get("max_total_num_tokens"))))
    return pairs


def endpoint_card(kind: str, settings: Settings, capabilities: ServerCapabilities) -> Card:
    """Make the card of a client from what it knows, without a request; `kind` is the name of its class."""
    error = settings.last_error
    age = None if settings.last_answer is None else time.monotonic() - settings.last_answer
    state, tone = endpoint_state(age, error)
    return Card(
        kind,
        model_name(capabilities.model_info or {}),
        state,
        tone,
        pairs=[
            ("url", settings.base_url),
            ("key", "left behind by a pickle" if settings.secret.left_behind else str(settings.secret)),
            *server_pairs(capabilities.server_info or {}),
            ("error", error),
        ],
    )


def endpoint_state(age: float | None, error: str | None) -> tuple[str, Tone]:
    """Describe the last answer with its time of day, because a card may be read much later."""
    said = "not asked yet" if age is None else f"answered at {time_of_day(time.time() - age)}"
    if error is not None:
        return "no answer" if age is None else f"{said}, then an error", "bad"
    return said, "idle" if age is None else "good"


def served_name(model_info: Mapping[str, Any]) -> str:
    """Name a model as its server does."""
    return str(model_info.get("served_model_name") or model_info.get("model_path") or "unknown model")


def model_name(model_info: Mapping[str, Any]) -> str:
    """Name a model in a few words: a folder or a file by its last part.

    Examples
    --------
    >>> paths = ["/models/SmolLM2-135M-Instruct/", "~/tiny.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"]
    >>> [model_name({"model_path": path}) for path in paths]
    ['SmolLM2-135M-Instruct', 'tiny.gguf', 'HuggingFaceTB/SmolLM2-135M-Instruct']
    """
    name = served_name(model_info)
    is_path = name.startswith(("/", ".", "~")) or name.endswith(("/", ".gguf"))
    return name.rstrip("/").rpartition("/")[2] if is_path else name


def _tokens(number: object) -> str:
    return f"{number:,} tokens" if isinstance(number, int) else f"{number} tokens"
