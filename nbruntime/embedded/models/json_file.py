"""Reads the JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nbruntime.errors import ModelNotFoundError


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a file, empty if there is no file; ModelNotFoundError for anything else."""
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise TypeError(f"it holds a {type(value).__name__} instead of an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ModelNotFoundError(
            f"{path.name} cannot be read ({error})", where=str(path), hint="Fetch the file again."
        ) from error
    return value
