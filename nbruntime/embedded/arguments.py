"""The embedded server's command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nbruntime.protocol.hosts import is_loopback
from nbruntime.protocol.server_arguments import (
    ADMIN_API_KEY_VARIABLE,
    API_KEY_VARIABLE,
    EMBEDDED_ARGUMENTS,
)

_LEAST = {
    "max_running_requests": 1,
    "max_queued_requests": 0,
    "max_total_tokens": 1,
    "context_length": 1,
    "chunked_prefill_size": 1,
    "stream_interval": 1,
    "max_body_bytes": 1,
    "threads": 1,
}
"""Smallest allowed values."""


@dataclass(frozen=True, slots=True)
class ServerArguments:
    """Arguments of the server; ``nbruntime.protocol.server_arguments`` explains them."""

    model_path: str | None = None
    tokenizer_path: str | None = None
    served_model_name: str | None = None
    revision: str | None = None
    host: str = "127.0.0.1"
    port: int = 30000
    allowed_hosts: str | None = None
    fd: int | None = None
    dtype: str = "auto"
    context_length: int | None = None
    max_total_tokens: int | None = None
    max_running_requests: int | None = None
    max_queued_requests: int | None = None
    chunked_prefill_size: int | None = None
    disable_radix_cache: bool = False
    stream_interval: int = 1
    incremental_streaming_output: bool = False
    random_seed: int | None = None
    is_embedding: bool = False
    chat_template: str | None = None
    enable_metrics: bool = True
    weight_version: str = "default"
    max_body_bytes: int = 16 * 2**20
    threads: int | None = None
    log_level: str = "info"
    api_key: str | None = field(default=None, repr=False)
    admin_api_key: str | None = field(default=None, repr=False)

    @property
    def allowed_host_names(self) -> list[str]:
        """The names in `allowed_hosts`."""
        names = (self.allowed_hosts or "").lower().split(",")
        return [name.strip() for name in names if name.strip()]

    def public(self) -> dict[str, Any]:
        """Give all arguments except the keys."""
        return {argument.name: getattr(self, argument.name) for argument in EMBEDDED_ARGUMENTS}


def parse_arguments(argv: Sequence[str] | None = None) -> ServerArguments:
    """Read the command line (`argv`, or the process's own) and the keys in the environment.

    Examples
    --------
    >>> parse_arguments(["--port", "0"]).port
    0
    """
    parser = argparse.ArgumentParser(
        prog="python -m nbruntime.embedded",
        description="A language model behind SGLang's HTTP protocol, on the CPU.",
        epilog=f"An API key is read from {API_KEY_VARIABLE}: a command line can be read by other users.",
    )
    for argument in EMBEDDED_ARGUMENTS:
        if argument.type is bool:
            action = argparse.BooleanOptionalAction if argument.default else "store_true"
            parser.add_argument(argument.flag, action=action, default=argument.default, help=argument.help)
        else:
            parser.add_argument(
                argument.flag,
                type=argument.type,
                default=argument.default,
                choices=argument.choices or None,
                help=argument.help.replace("%", "%%"),
                metavar=None if argument.choices else argument.type.__name__.upper(),
            )
    values = vars(parser.parse_args(argv))
    arguments = ServerArguments(
        # Removed from the environment, so that child processes do not inherit them.
        api_key=os.environ.pop(API_KEY_VARIABLE, None) or None,
        admin_api_key=os.environ.pop(ADMIN_API_KEY_VARIABLE, None) or None,
        **values,
    )
    for name, least in _LEAST.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if not 0 <= arguments.port < 2**16:
        parser.error(f"--port must be in [0, 65535], got {arguments.port}")
    for name in arguments.allowed_host_names:
        if not re.fullmatch(r"[\w.-]+", name):
            parser.error(f"--allowed-hosts takes names such as hub.example.org, without a port, got {name!r}")
    if not is_loopback(arguments.host) and arguments.api_key is None:
        parser.error(
            f"--host {arguments.host} is reachable from other machines, and no API key is set\n"
            f"Set {API_KEY_VARIABLE} in the environment, or listen on 127.0.0.1"
        )
    return arguments
