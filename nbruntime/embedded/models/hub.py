"""Models of the Hugging Face hub: from its cache on this machine, or downloaded."""

from __future__ import annotations

import fnmatch
import io
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbruntime.embedded.models.folder import missing_parts
from nbruntime.embedded.models.progress import Report
from nbruntime.embedded.models.quantisation import CONFIG_FILES, refuse_quantised
from nbruntime.embedded.models.weights import choose_weights
from nbruntime.errors import ModelNotFoundError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

CONNECT_SECONDS = 5.0
"""Time limit of the hub's first answer, so that a machine without network does not hang."""

_ALWAYS = ("*.json", "*.model", "*.txt", "*.jinja")
_WEIGHTS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.bin")


def cached_snapshot(repo_id: str, revision: str | None = None) -> Path | None:
    """Find a complete snapshot of "org/name" in the hub's cache on this machine; None if there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if missing_parts(folder) else folder


def download_snapshot(repo_id: str, revision: str | None = None, *, report: Report) -> Path:
    """Download configuration, tokenizer and one set of weights of "org/name" into the hub's cache.

    Raises
    ------
    ModelNotFoundError
        If the hub does not answer within a few seconds or is switched off by ``HF_HUB_OFFLINE``, if it has no
        such model or revision, or if the model needs a login.
    LaunchError
        If the model is quantised; its weights are not downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise ModelNotFoundError(
            f"The model {repo_id} is not in the hub's cache, and HF_HUB_OFFLINE is set",
            hint="Unset HF_HUB_OFFLINE to download it, or give the folder of a model.",
        )
    with _explained(repo_id, revision):
        info = _model_info(repo_id, revision)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        files = needed_files(sizes)
        total = sum(sizes[name] for name in files) / 1e6
        report("downloading", 0.0, total, "MB")
        fetch = partial(
            snapshot_download, repo_id, revision=revision, tqdm_class=_progress_bar(total, report)
        )
        folder = Path(fetch(allow_patterns=[name for name in files if name in CONFIG_FILES]))
    refuse_quantised(folder)  # before gigabytes are fetched
    with _explained(repo_id, revision):
        fetch(allow_patterns=files)
    report("downloading", total, total, "MB")
    return folder


def needed_files(names: Iterable[str]) -> list[str]:
    """Choose the files of a repository to download: configuration, tokenizer and one set of weights.

    Examples
    --------
    >>> needed_files(["README.md", "config.json", "model.safetensors", "onnx/model.onnx", "model.bin"])
    ['config.json', 'model.safetensors']
    """
    top = [name for name in names if "/" not in name]
    chosen = {name for name in top if any(fnmatch.fnmatch(name, pattern) for pattern in _ALWAYS)}
    return sorted(chosen.union(choose_weights(top, *_WEIGHTS)))


def _model_info(repo_id: str, revision: str | None) -> ModelInfo:
    """Ask the hub about a model, for at most `CONNECT_SECONDS`."""
    from huggingface_hub import HfApi

    answer: Future[ModelInfo] = Future()

    def ask() -> None:
        try:
            api = HfApi()
            answer.set_result(
                api.model_info(repo_id, revision=revision, files_metadata=True, timeout=CONNECT_SECONDS)
            )
        except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
            answer.set_exception(error)

    # The timeout does not limit the DNS lookup, which cannot be interrupted: the thread is not joined.
    threading.Thread(target=ask, name="hub-model-info", daemon=True).start()
    return answer.result(CONNECT_SECONDS)


def _progress_bar(total: float, report: Report) -> type[Any]:
    """Make a class of progress bars that call `report` instead of drawing."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    reported = 0.0

    class ProgressBar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            nonlocal reported
            done = min(self.n / 1e6, total)
            if self.unit == "B" and done > reported:  # several bars count the same bytes, others count files
                reported = done
                report("downloading", done, total, "MB")

    return ProgressBar


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn any error of the hub into a ModelNotFoundError with a hint."""
    try:
        yield
    except Exception as error:
        raise _explanation(error, repo_id, revision) from error


def _explanation(error: Exception, repo_id: str, revision: str | None) -> ModelNotFoundError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return ModelNotFoundError(
            f"The model {repo_id} is gated: the hub gives it to users who accepted its licence",
            hint="Accept the licence on the model's page, then log in with `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(
            f"The model {repo_id} has no revision {revision!r} on the hub",
            hint="Give a branch, tag or commit that the model's page lists.",
        )
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return ModelNotFoundError(
            f"There is no model {repo_id!r} on the hub, or it is private",
            hint="Check the spelling; for a private model log in with `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return ModelNotFoundError(
            f"The hub answered {error.response.status_code} when asked for {repo_id}",
            hint="Try again later, or give the folder of a model.",
        )
    reason = str(error) or f"no answer within {CONNECT_SECONDS:g} s"
    return ModelNotFoundError(
        f"The hub could not be reached for {repo_id}",
        cause=reason.splitlines()[0],
        hint="Check the network, or give the folder of a model.",
    )
