"""The arguments of the embedded server.

The server makes its command line from them, and the launcher checks keyword arguments against them. Names,
meanings and defaults follow SGLang's ``ServerArgs``.
"""

from __future__ import annotations

from dataclasses import dataclass

API_KEY_VARIABLE = "NBRUNTIME_API_KEY"
ADMIN_API_KEY_VARIABLE = "NBRUNTIME_ADMIN_API_KEY"
"""Environment variables with the keys: other users could read them on a command line."""

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
"""The model of a server that is started without one."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of the embedded server."""

    name: str  # Python keyword
    type: type  # str, int, float or bool; a bool is a flag without a value, also with --no- if it is True
    default: str | int | float | bool | None  # None: the server decides
    help: str  # one line for --help
    choices: tuple[str, ...] = ()  # the allowed values, if they are limited

    @property
    def flag(self) -> str:
        """The command-line flag, such as ``--model-path``."""
        return "--" + self.name.replace("_", "-")


EMBEDDED_ARGUMENTS = (
    Argument("model_path", str, None, "Hugging Face folder, hub id, or SmolLM2-135M-Instruct (the default)"),
    Argument("tokenizer_path", str, None, "folder of the tokenizer, if not the model's"),
    Argument("served_model_name", str, None, "name in /v1/models and /model_info"),
    Argument("revision", str, None, "branch, tag or commit of a hub model"),
    Argument("host", str, "127.0.0.1", "address to listen on; any but loopback needs an API key"),
    Argument("port", int, 30000, "port to listen on; 0 takes a free one"),
    Argument(
        "allowed_hosts",
        str,
        None,
        "host names besides this machine's, separated by commas, whose pages may use a server without a key",
    ),
    Argument("fd", int, None, "inherited file descriptor of a listening socket, instead of host and port"),
    Argument(
        "dtype",
        str,
        "auto",
        "precision of the linear layers: auto packs to float16 where the CPU can",
        ("auto", "float32", "float16", "half", "bfloat16", "float"),
    ),
    Argument("context_length", int, None, "longest prompt plus answer, in tokens; default from the model"),
    Argument("max_total_tokens", int, None, "size of the KV cache, in tokens"),
    Argument("max_running_requests", int, None, "requests that are decoded together at most"),
    Argument("max_queued_requests", int, None, "requests that may wait; one more is answered with 503"),
    Argument("chunked_prefill_size", int, None, "prompt tokens per prefill step at most"),
    Argument("disable_radix_cache", bool, False, "do not reuse the KV cache of shared prefixes"),
    Argument("stream_interval", int, 1, "tokens per streamed event"),
    Argument(
        "incremental_streaming_output", bool, False, "stream only what is new instead of the whole text"
    ),
    Argument("random_seed", int, None, "seed of the sampling; random when not given"),
    Argument("is_embedding", bool, False, "serve /encode with the model's hidden states"),
    Argument("chat_template", str, None, "file of a Jinja chat template, if not the tokenizer's"),
    Argument("enable_metrics", bool, True, "serve /metrics"),
    Argument("weight_version", str, "default", "name of the weights in every answer"),
    Argument("max_body_bytes", int, 16 * 2**20, "largest request body; a larger one is answered with 413"),
    Argument("threads", int, None, "threads of the model; default is the number of cores"),
    Argument(
        "log_level",
        str,
        "info",
        "what the log shows",
        ("debug", "info", "warning", "error", "critical"),
    ),
)
