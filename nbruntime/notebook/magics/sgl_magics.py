"""All magics of ``%load_ext nbruntime``."""

from __future__ import annotations

from typing import Any, ClassVar

from nbruntime.notebook.magics.generation_magics import GenerationMagics
from nbruntime.notebook.magics.server_magics import ServerMagics


class SglMagics(GenerationMagics, ServerMagics):
    """Magics for SGLang servers; ``%config SglMagics`` shows and sets their defaults."""

    # What IPython's magics_class would set, which sees only the methods defined in this class.
    registered = True
    magics: ClassVar[dict[str, dict[str, Any]]] = {
        kind: GenerationMagics.magics[kind] | ServerMagics.magics[kind] for kind in ("line", "cell")
    }
