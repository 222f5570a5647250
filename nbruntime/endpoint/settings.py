"""Settings of a client: address, key, certificates, time-outs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbruntime.endpoint.address import find_proxy, is_this_machine
from nbruntime.errors import NbruntimeError
from nbruntime.secrets import Secret


@dataclass
class Settings:
    """Settings of a client, as in `RuntimeEndpoint`, and the last answer of its server.

    `diagnose` is set by the owner of a server: it explains in an error's hint why the server does not answer.
    """

    base_url: str
    secret: Secret
    verify: str | bool | None = None
    connect_timeout: float | None = 10.0
    read_timeout: float | None = 600.0
    diagnose: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)
    # By `time.monotonic`, and the message of an error since then; an error would keep its frames alive.
    last_answer: float | None = field(default=None, init=False, repr=False, compare=False)
    last_error: str | None = field(default=None, init=False, repr=False, compare=False)

    def url(self, path: str) -> str:
        """Return the URL of a route."""
        return self.base_url + path

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, so that proxies are not used."""
        return is_this_machine(self.base_url)

    @property
    def certificates(self) -> str | bool:
        """What to check the server by: `verify`, for another machine else what the environment names."""
        if self.verify in (None, True) and not self.local:
            named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            return named or True
        return True if self.verify is None else self.verify

    @property
    def proxy(self) -> str | None:
        """The environment's proxy that requests go through; it may hold a password."""
        return find_proxy(self.base_url)

    def scrub(self, text: str) -> str:
        """Mask the key in a text."""
        return self.secret.scrub(text)

    def note_answer(self) -> None:
        """Remember that the server has answered."""
        self.last_answer, self.last_error = time.monotonic(), None

    def note_error(self, error: NbruntimeError) -> NbruntimeError:
        """Remember an error, and return it."""
        self.last_error = error.message
        return error

    def state(self) -> str:
        """Describe the last answer in a few words."""
        if self.last_answer is None:
            said = "not asked yet"
        else:
            age = time.monotonic() - self.last_answer
            said = "answered just now" if age < 1 else f"answered {age:.0f} s ago"
        return said if self.last_error is None else f"{said}, then: {self.last_error}"

    def __getstate__(self) -> dict[str, Any]:
        # Only the settings are copied; the secret drops its key.
        return {**vars(self), "diagnose": None, "last_answer": None, "last_error": None}
