"""The body of ``/generate`` and ``/encode``, read into one input per sequence.

The rules are those of SGLang's ``srt/managers/io_struct.py``: scalars apply to the whole batch, a string
request id gets a number per prompt, and n samples of a prompt are adjacent.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nbruntime.embedded.service.errors import bad_value, broken_contract
from nbruntime.embedded.service.field_types import (
    FieldTypes,
    check_types,
    is_bool,
    is_int,
    is_object,
    is_str,
    list_of,
    optional,
)
from nbruntime.protocol.sampling import ContractError, SamplingParams

_STR = ("string_type", "str", is_str)
_STRS = ("list_type", "list[str]", list_of(is_str))
_INT = ("int_type", "int", is_int)
_INTS = ("list_type", "list[int]", list_of(is_int))
_BOOL = ("bool_type", "bool", is_bool)

_FIELDS: FieldTypes = {
    "text": (_STR, _STRS),
    "input_ids": (("list_type", "list[list[int]]", list_of(list_of(is_int))), _INTS),
    "sampling_params": (
        ("list_type", "list[dict[str,any]]", list_of(is_object)),
        ("dict_type", "dict[str,any]", is_object),
    ),
    "rid": (_STRS, _STR),
    "stream": (_BOOL,),
    "return_logprob": (("list_type", "list[bool]", list_of(is_bool)), _BOOL),
    "logprob_start_len": (_INTS, _INT),
    "top_logprobs_num": (_INTS, _INT),
    "token_ids_logprob": (("list_type", "list[list[int]]", list_of(optional(list_of(is_int)))), _INTS),
    "return_text_in_logprobs": (_BOOL,),
    "return_prompt_token_ids": (_BOOL,),
    "return_hidden_states": (("list_type", "list[bool]", list_of(is_bool)), _BOOL),
    "lora_path": (("list_type", "list[str]", list_of(optional(is_str))), _STR),
}

_NEITHER = "Either text, input_ids or input_embeds should be provided."


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """One sequence of a request; its prompt is `text` or `input_ids`."""

    rid: str
    text: str | None
    input_ids: list[int] | None
    params: SamplingParams
    return_logprob: bool = False
    logprob_start_len: int = -1  # -1: no prompt tokens
    top_logprobs_num: int = 0
    token_ids_logprob: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateReqInput:
    """A body of ``/generate``, named as in SGLang."""

    sequences: list[SequenceInput]  # by prompt, the n samples of each adjacent
    single: bool  # the answer is an object instead of a list
    stream: bool
    text_in_logprobs: bool
    prompt_token_ids: bool


def check_body(body: dict[str, Any]) -> tuple[dict[str, Any], list[SamplingParams]]:
    """Check names and types, which are refused before a stream begins.

    Gives the same object, and sampling parameters for all prompts or for each. Raises ReplyError.
    """
    check_types(body, _FIELDS)
    given = body.get("sampling_params") or {}
    try:
        params = [SamplingParams.from_dict(each) for each in (given if isinstance(given, list) else [given])]
    except ContractError as error:
        raise broken_contract(str(error)) from error
    return body, params


def read_generate_input(
    body: Mapping[str, Any], params: list[SamplingParams], *, most: int
) -> GenerateReqInput:
    """Read what `check_body` gives, at most `most` sequences; ReplyError if values do not fit together."""
    texts, ids, single = _prompts(body)
    count = len(texts if texts is not None else ids or [])
    if isinstance(body.get("sampling_params"), list) and len(params) != count:
        raise bad_value(
            f"sampling_params has {len(params)} entries for {count} prompts; "
            "send one object for all, or one each."
        )
    params = params * count if len(params) == 1 else params
    samples = {max(1, each.n) for each in params} or {1}
    if len(samples) > 1:
        raise bad_value("The parallel_sample_num should be the same for all samples in sample params.")
    n = samples.pop()
    if n * count > most:
        raise bad_value(
            f"{count} prompts with n={n} ask for more answers than fit in one request: at most {most}."
        )
    for each in params:
        _check_supported(each)
    rids = _rids(body.get("rid"), count, single and n == 1)
    if n > 1:
        rids = [uuid.uuid4().hex for _ in range(count * n)]
    defaults = {"return_logprob": False, "logprob_start_len": -1, "top_logprobs_num": 0}
    spread = {name: _spread(body.get(name), count, default, name) for name, default in defaults.items()}
    chosen = _spread_token_ids(body.get("token_ids_logprob"), count)
    _refuse_unserved(body)
    sequences = [
        SequenceInput(
            rid=rids[prompt * n + sample],
            text=texts[prompt] if texts is not None and ids is None else None,
            input_ids=ids[prompt] if ids is not None else None,
            params=_of_sample(params[prompt], sample),
            **{name: values[prompt] for name, values in spread.items()},
            token_ids_logprob=chosen[prompt],
        )
        for prompt in range(count)
        for sample in range(n)
    ]
    return GenerateReqInput(
        sequences,
        single=single and n == 1,
        stream=bool(body.get("stream")),
        text_in_logprobs=bool(body.get("return_text_in_logprobs")),
        prompt_token_ids=bool(body.get("return_prompt_token_ids")),
    )


def _of_sample(params: SamplingParams, sample: int) -> SamplingParams:
    """Give each sample of a prompt a seed of its own; the first has the one that was given."""
    if params.sampling_seed is None or sample == 0:
        return params
    digest = hashlib.blake2b(f"{params.sampling_seed}/{sample}".encode(), digest_size=8).digest()
    return replace(params, sampling_seed=int.from_bytes(digest, "big", signed=True))


def _prompts(body: Mapping[str, Any]) -> tuple[list[str] | None, list[list[int]] | None, bool]:
    """Give texts and token ids, one per prompt, and whether there is a single prompt."""
    text, ids = body.get("text"), body.get("input_ids")
    if text is None and ids is None:
        raise bad_value(_NEITHER)
    single = isinstance(text, str) if text is not None else not (ids and isinstance(ids[0], list))
    if ids is not None and not ids:
        raise bad_value("input_ids cannot be empty.")
    texts = [text] if isinstance(text, str) else text
    if ids is not None and not isinstance(ids[0], list):
        ids = [ids]
    if texts is not None and ids is not None and len(texts) != len(ids):
        raise bad_value(f"text has {len(texts)} prompts and input_ids {len(ids)}; send one of them.")
    return texts, ids, single


def _rids(given: str | list[str] | None, count: int, single: bool) -> list[str]:
    if given is None:
        return [uuid.uuid4().hex for _ in range(count)]
    if isinstance(given, str):
        return [given] if single else [f"{given}_{number}" for number in range(count)]
    if len(given) != count:
        raise bad_value("The specified rids length mismatch with the batch_size for batch processing.")
    doubled = [rid for rid, times in Counter(given).items() if times > 1]
    if doubled:
        raise bad_value(f"Duplicate request IDs detected within the request: {doubled}")
    return given


def _spread(value: Any, count: int, default: Any, name: str) -> list[Any]:
    """Give one value per prompt."""
    if value is None:
        return [default] * count
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise bad_value(f"{name} has {len(value)} entries for {count} prompts.")
    return value


def _spread_token_ids(value: Any, count: int) -> list[tuple[int, ...]]:
    if not value:
        return [()] * count
    if not any(isinstance(each, list) for each in value) and None not in value:
        return [tuple(value)] * count
    if len(value) != count:
        raise bad_value(f"token_ids_logprob has {len(value)} entries for {count} prompts.")
    return [tuple(each or ()) for each in value]


def _check_supported(params: SamplingParams) -> None:
    if params.beam_width is not None and params.beam_width > 1:
        raise bad_value("beam_width: the embedded server does no beam search; leave it out, or use SGLang.")
    if params.structural_tag is not None:
        raise bad_value(
            "structural_tag is not served by the embedded server; use json_schema, regex or ebnf."
        )
    if params.watermark and params.watermark.get("enabled", True):
        raise bad_value("watermark: the embedded server has none; leave it out, or use SGLang.")


def _refuse_unserved(body: Mapping[str, Any]) -> None:
    """Refuse what SGLang refuses without the matching flag, and what this server lacks."""
    lora = body.get("lora_path")
    names = [lora] if isinstance(lora, str) else lora or []
    wanted = next((name for name in names if name), None)
    if wanted is not None:
        raise bad_value(
            f"LoRA adapter '{wanted}' was requested, but LoRA is not enabled. Please launch the server with "
            "--enable-lora flag and preload adapters using --lora-paths or /load_lora_adapter endpoint."
        )
    session = body.get("session_params")
    if isinstance(session, dict) and session.get("id") is not None:
        raise bad_value(f"Invalid request: session id {session['id']} does not exist")
    hidden = body.get("return_hidden_states")
    if any(hidden) if isinstance(hidden, list) else hidden:
        raise bad_value(
            "The server is not configured to return hidden states. Please set `--return-hidden-states-mode "
            "last`, `--return-hidden-states-mode full`, or the legacy `--enable-return-hidden-states` flag."
        )
    if body.get("input_embeds") is not None:
        raise bad_value("input_embeds are not served by the embedded server; send text or input_ids.")
    if body.get("custom_logit_processor") is not None:
        raise bad_value(
            "The server is not configured to enable custom logit processor. Please set "
            "`--enable-custom-logit-processor` to enable this feature."
        )
