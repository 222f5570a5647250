"""Settings and helpers that all magics share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from IPython.core.magic import Magics
from traitlets import Bool, Dict, Enum, Float, TraitError, Unicode, validate
from traitlets.config import Configurable

from nbruntime.display.html import visible
from nbruntime.errors import NbruntimeError
from nbruntime.launch.holders import PLACES
from nbruntime.notebook.magics.known_servers import KnownServers
from nbruntime.notebook.magics.options import VIEWS
from nbruntime.notebook.views.draw_rate import DRAW_LIMITS, DRAWS_PER_SECOND
from nbruntime.protocol.requests import build_generate_request


def kept_by(shell: Any) -> dict[str, dict[str, Any]]:
    """Return what outlives a reload of the extension: the names of servers, and settings."""
    kept: dict[str, dict[str, Any]] = shell.meta.setdefault("nbruntime", {"servers": {}, "settings": {}})
    return kept


class MagicsBase(Magics, Configurable):  # type: ignore[misc]
    """Settings, known servers and error display of the magics."""

    endpoint = Unicode("", help="Server that cells use unless they name one; %sgl_use sets it.").tag(
        config=True
    )
    sampling = Dict(
        help="Default sampling parameters of cells, by SGLang's names, such as "
        "{'temperature': 0, 'max_new_tokens': 256}. Options on a line override them."
    ).tag(config=True)
    view = Enum(VIEWS, "markdown", help="How answers are shown; a terminal always shows plain text.").tag(
        config=True
    )
    draws_per_second = Float(
        DRAWS_PER_SECOND,
        min=DRAW_LIMITS[0],
        max=DRAW_LIMITS[1],
        help="Maximum number of draws of a growing answer.",
    ).tag(config=True)
    short_errors = Bool(True, help="Show errors without a traceback.").tag(config=True)

    def __init__(self, shell: Any) -> None:
        super().__init__(shell=shell)
        kept = kept_by(shell)
        PLACES["%sgl_launch --name"] = kept["servers"]
        self.servers = KnownServers(kept["servers"], lambda: self.shell.user_ns)
        for name, value in kept["settings"].items():
            setattr(self, name, value)
        self.undo = ExitStack()  # removes what the extension has registered

    def keep_settings(self) -> None:
        """Keep changed settings for the next load of the extension."""
        kept_by(self.shell)["settings"] = {
            name: value
            for name, trait in self.traits(config=True).items()
            if (value := getattr(self, name)) != trait.default()
        }

    @validate("sampling")
    def _check_sampling(self, proposal: Any) -> dict[str, Any]:
        try:
            build_generate_request("", sampling_params=proposal["value"])
        except NbruntimeError as error:
            raise TraitError(str(error)) from error
        value: dict[str, Any] = proposal["value"]
        return value

    @contextmanager
    def showing_errors(self) -> Iterator[None]:
        """Show errors without a traceback if `short_errors` is set."""
        try:
            yield
        except (NbruntimeError, KeyboardInterrupt) as error:
            if self.short_errors and not hasattr(error, "_render_traceback_"):
                lines = visible(f"{type(error).__name__}: {error}".removesuffix(": ")).split("\n")
                # IPython calls it instead of formatting a traceback.
                error._render_traceback_ = partial(list, lines)  # type: ignore[union-attr]
            raise
