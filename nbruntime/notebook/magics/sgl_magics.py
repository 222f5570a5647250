"""All magics of ``%load_ext nbruntime``."""

from __future__ import annotations

from typing import Any, ClassVar

from nbruntime.notebook.magics.generation_magics import GenerationMagics
from nbruntime.notebook.magics.profile_magics import ProfileMagics
from nbruntime.notebook.magics.server_magics import ServerMagics

_PARTS = (GenerationMagics, ProfileMagics, ServerMagics)


class SglMagics(GenerationMagics, ProfileMagics, ServerMagics):
    """Magics for SGLang servers; ``%config SglMagics`` shows and sets their defaults."""

    # What IPython's magics_class would set, which sees only the methods defined in this class.
    registered = True
    magics: ClassVar[dict[str, dict[str, Any]]] = {
        kind: {name: method for part in _PARTS for name, method in part.magics[kind].items()}
        for kind in ("line", "cell")
    }
