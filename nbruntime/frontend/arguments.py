"""Turn a program's ``sgl.gen`` into arguments of `RuntimeEndpoint.complete`."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError

_DTYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    # The pattern of a value, and the texts that end it, from SGLang's lang/ir.py.
    "int": (r"[-+]?[0-9]+[ \n]*", (" ", "\n")),
    "float": (r"[-+]?[0-9]*\.?[0-9]+[ \n]*", (" ", "\n")),
    "bool": (r"(True|False)", ()),
    "str": (r"\"[\w\d\s]*\"", ()),
}

_OPTIONS = ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")

_UNSET = (None,)
"""SGLang 0.5.2's value of omitted options, by a stray comma in its source."""


def check_state(s: Any, method: str, instead: str) -> None:
    """Refuse what is no state of a program, most often the prompt of a caller who means another method.

    Raises
    ------
    ArgumentTypeError
        With what to call instead.
    """
    if not hasattr(s, "text_"):
        raise ArgumentTypeError(
            f"SGLang's frontend language calls {method}() with the state of a program, not with a "
            f"{type(s).__name__}",
            where=method,
            hint=f"Call {instead}.",
        )


def check_gen(s: Any, sampling_params: Any, method: str, instead: str) -> None:
    """Refuse arguments that are not the frontend language's, as `check_state`."""
    check_state(s, method, instead)
    if not hasattr(sampling_params, "to_srt_kwargs"):
        raise ArgumentTypeError(
            f"sampling_params must be SGLang's SglSamplingParams, not a {type(sampling_params).__name__}",
            where=method,
            hint=f"Use sgl.gen in a program, or call {instead}.",
        )


def gen_arguments(s: Any, sampling_params: Any) -> dict[str, Any]:
    """Turn the frontend's objects, which are not changed, into arguments of `complete`.

    Raises
    ------
    ArgumentValueError
        For an unknown dtype.
    """
    params: dict[str, Any] = {**_output_settings(), **sampling_params.to_srt_kwargs()}
    stop = params.get("stop") or ()
    ends: tuple[str, ...] = ()
    dtype = getattr(sampling_params, "dtype", None)
    if dtype is not None:
        name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
        if name not in _DTYPES:
            raise ArgumentValueError(
                f"Unknown dtype: {dtype!r}", where="dtype", hint=f"Use one of: {', '.join(_DTYPES)}."
            )
        if params.get("regex") is not None:
            warnings.warn(f"dtype={name} replaces regex={params['regex']!r}", stacklevel=4)
        params["regex"], ends = _DTYPES[name]
    # The interpreter adds the template's stop texts to the caller's own list, again for every gen.
    params["stop"] = list(dict.fromkeys((*((stop,) if isinstance(stop, str) else stop), *ends)))
    options = {option: getattr(sampling_params, option, None) for option in _OPTIONS}
    options = {name: None if value == _UNSET else value for name, value in options.items()}
    return {"sampling_params": params, "image_data": images_of(s), **options}


def images_of(s: Any) -> Any:
    """Return a state's images for a request: base64 text, a list of it, or None."""
    data = [encoded for _, encoded in getattr(s, "images_", None) or ()]
    return data[0] if len(data) == 1 else data or None


def _output_settings() -> dict[str, bool]:
    """Read the frontend's settings of how tokens become text."""
    for module in ("sglang.lang.global_config", "sglang.global_config"):
        settings = getattr(sys.modules.get(module), "global_config", None)
        if settings is not None:
            return {
                "skip_special_tokens": settings.skip_special_tokens_in_output,
                "spaces_between_special_tokens": settings.spaces_between_special_tokens_in_out,
            }
    return {}
