"""Keyword arguments that the clients pass on, by SGLang's names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])


class GenerateOptions(TypedDict, total=False):
    """Arguments of a generation: sampling parameters, and other fields of ``/generate``."""

    sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    rid: str | Sequence[str] | None
    return_logprob: bool | Sequence[bool] | None
    logprob_start_len: int | Sequence[int] | None
    top_logprobs_num: int | Sequence[int] | None
    lora_path: str | Sequence[str | None] | None
    timeout: float | None

    max_new_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    stop_regex: str | Sequence[str] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    min_new_tokens: int | None
    n: int | None
    json_schema: Any
    regex: str | None
    ebnf: str | None
    structural_tag: str | None
    ignore_eos: bool | None
    skip_special_tokens: bool | None
    spaces_between_special_tokens: bool | None
    no_stop_trim: bool | None
    stream_interval: int | None
    logit_bias: Mapping[Any, float] | None
    sampling_seed: int | None
    custom_params: Any
    beam_width: int | None
    watermark: Mapping[str, Any] | None
    choice: Sequence[str] | None

    token_ids_logprob: Sequence[Any] | None
    return_text_in_logprobs: bool | None
    return_hidden_states: bool | Sequence[bool] | None
    return_prompt_token_ids: bool | None
    session_params: Any
    session_id: str | None
    image_data: Any
    video_data: Any
    audio_data: Any
    modalities: str | Sequence[str] | None
    custom_logit_processor: str | Sequence[str | None] | None
    custom_labels: Mapping[str, Any] | None
    priority: int | None
    extra_key: str | Sequence[str | None] | None
    cache_salt: str | Sequence[str | None] | None
    routing_key: str | None
    conversation_id: str | None
    require_reasoning: bool | None
    max_thinking_tokens: int | None
    routed_dp_rank: int | None
    data_parallel_rank: int | None
    bootstrap_host: str | Sequence[str | None] | None
    bootstrap_port: int | Sequence[int | None] | None
    bootstrap_room: int | Sequence[int | None] | None
    log_metrics: bool | None
    no_logs: bool | None


class ProfileOptions(TypedDict, total=False):
    """Arguments of ``/start_profile`` besides its folder."""

    start_step: int | None
    num_steps: int | None
    activities: Sequence[str] | None
    profile_by_stage: bool | None
    with_stack: bool | None
    record_shapes: bool | None
    profile_id: str | None
    merge_profiles: bool | None
    profile_prefix: str | None
    profile_stages: Sequence[str] | None
    detailed_annotations: bool | None


class _ServerDefault:
    """Default of an option that is not sent: the server decides. Shown as ``...``, as stub files do."""

    def __repr__(self) -> str:
        return "..."


_SERVER_DEFAULT = _ServerDefault()


def takes(options: type) -> Callable[[_Method], _Method]:
    """Show a TypedDict's names in a method's signature instead of ``**``, for tooltips and completion."""
    named = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_SERVER_DEFAULT,
            annotation=annotation.__forward_arg__,
        )
        for name, annotation in options.__annotations__.items()
    ]

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)
        explicit = list(signature.parameters.values())[:-1]
        method.__signature__ = signature.replace(parameters=[*explicit, *named])  # type: ignore[attr-defined]
        return method

    return decorate
