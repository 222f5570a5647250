"""Makes and checks the body of a ``/generate`` request.

The check of ``sampling_params`` is SGLang's (0.5.23, ``api/v1/api_types.py``), and suggests the right name.
Only what the caller gave is sent: the server has the defaults.
"""

from __future__ import annotations

import json
import operator
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.protocol.media import MEDIA, encode_media
from nbruntime.protocol.nearest_names import nearest_name
from nbruntime.protocol.options import OPTION_NAMES, check_option
from nbruntime.protocol.sampling import PARAMETER_NAMES, ContractError, SamplingParams

Prompt = str | Sequence[int]
"""One prompt: text, or token ids."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A checked request to ``/generate``, or to ``/encode``."""

    body: dict[str, Any]  # the JSON object
    prompts: tuple[Prompt, ...]
    samples: int  # answers to each prompt (n)
    many: bool  # True if the server answers with a list
    rids: tuple[str, ...]  # one per prompt; with n > 1 the server makes others

    @property
    def prompt_of_answer(self) -> tuple[Prompt, ...]:
        """The prompt of each answer, in the server's order: all samples of a prompt, then the next prompt."""
        return tuple(prompt for prompt in self.prompts for _ in range(self.samples))


def build_generate_request(
    prompt: Prompt | Sequence[Prompt],
    *,
    sampling_params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    rid: str | Sequence[str] | None = None,
    stream: bool = False,
    **arguments: Any,
) -> GenerateRequest:
    """Make and check the body of a ``/generate`` request.

    Parameters
    ----------
    prompt : str, sequence of str, sequence of int, or sequence of sequences of int
        One prompt or a batch, as text, as token ids or as the output of a tokenizer of transformers.
    sampling_params : mapping, or one mapping per prompt, optional
        Sampling parameters by SGLang's names.
    rid : str or sequence of str, optional
        Request id; made if not given. A batch gets ``rid_0``, ``rid_1``, …
    stream : bool
        Whether to stream the answer.
    **arguments
        Sampling parameters, which override `sampling_params`, and other fields of the request
        (`OPTION_NAMES`). None means "not given"; for ``max_new_tokens`` it means the rest of the context.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For an unknown name or a wrong type; for a value out of range.

    Examples
    --------
    >>> request = build_generate_request("The capital of France is", temperature=0, rid="r")
    >>> request.body
    {'text': 'The capital of France is', 'sampling_params': {'temperature': 0}, 'rid': 'r'}
    >>> build_generate_request("Hello", max_tokens=5)
    Traceback (most recent call last):
        ...
    nbruntime.errors.ArgumentTypeError: There is no parameter 'max_tokens'
    Did you mean 'max_new_tokens'?
    """
    field, value, prompts, batch = read_prompt(prompt)
    keywords = {name: given for name, given in arguments.items() if name in PARAMETER_NAMES}
    options = {
        name: _plain(encode_media(name, given) if name in MEDIA else given)
        for name, given in arguments.items()
        if name not in keywords and given is not None
    }
    for name, given in options.items():
        if name not in OPTION_NAMES:
            raise _unknown(name, (*PARAMETER_NAMES, *OWN_NAMES))
        check_option(name, given)

    checked: dict[str, Any] | list[dict[str, Any]]
    if sampling_params is None or isinstance(sampling_params, Mapping):
        checked = _check_sampling({**(sampling_params or {}), **keywords})
        samples = checked.get("n") or 1
    elif isinstance(sampling_params, list | tuple):
        if not batch or len(sampling_params) != len(prompts):
            raise ArgumentValueError(
                f"{len(sampling_params)} sets of sampling parameters for "
                f"{len(prompts) if batch else 'a single'} prompt{'s' if len(prompts) > 1 else ''}",
                where="sampling_params",
                hint="Give one mapping for all prompts, or a list with one for each.",
            )
        checked = [_check_sampling({**_mapping(single), **keywords}) for single in sampling_params]
        counts = {single.get("n") or 1 for single in checked}
        if len(counts) > 1:
            raise ArgumentValueError(
                "The prompts of one batch have different n",
                where="sampling_params",
                hint="Give all of them the same n, or send them as separate requests.",
            )
        samples = counts.pop()
    else:
        raise ArgumentTypeError(
            f"sampling_params must be a mapping, not {type(sampling_params).__name__}",
            where="sampling_params",
            hint='For example sampling_params={"temperature": 0.7, "max_new_tokens": 100}.',
        )

    rids = request_names(rid, len(prompts), batch)
    body: dict[str, Any] = {field: value, "sampling_params": checked, "rid": list(rids) if batch else rids[0]}
    if stream:
        body["stream"] = True
    if options.get("return_logprob"):
        options.setdefault("return_text_in_logprobs", True)
    body.update(options)
    return GenerateRequest(body, prompts, samples, batch or samples > 1, rids)


_FOR_CHAT = "Give a conversation to chat() or stream_chat()."

OWN_NAMES = (*OPTION_NAMES, "timeout")
"""Names of a request's arguments that are no sampling parameters."""


def _unknown(name: str, names: Iterable[str], beside: Sequence[str] = ()) -> ArgumentTypeError:
    meant = nearest_name(name, names)
    hint = f"Did you mean {meant!r}?" if meant else f"Sampling parameters are: {', '.join(PARAMETER_NAMES)}."
    if name == "messages":
        hint = _FOR_CHAT
    if name in beside:
        hint = f"It is no sampling parameter: give {name}=... as an argument of its own."
    return ArgumentTypeError(f"There is no parameter {name!r}", hint=hint)


def read_prompt(prompt: Prompt | Sequence[Prompt]) -> tuple[str, Any, tuple[Prompt, ...], bool]:
    """Read a prompt or a batch; return the body's field, its value, the single prompts, and if it is a batch.

    Raises an ArgumentTypeError or ArgumentValueError if it is no prompt, or empty.
    """
    if isinstance(prompt, str):
        return "text", prompt, (prompt,), False
    items: Any = _plain(prompt)
    if isinstance(items, dict):
        items = _plain(items.get("input_ids"))  # the output of a tokenizer of transformers
    if not isinstance(items, list):
        raise ArgumentTypeError(
            f"The prompt must be text or token ids, not {type(prompt).__name__}",
            where="prompt",
            hint="Give a text, a list of token ids, or a list of either.",
        )
    if not items:
        raise ArgumentValueError(
            "The prompt is empty", where="prompt", hint="Give at least one text or one token id."
        )
    if all(isinstance(item, str) for item in items):
        return "text", items, tuple(items), True
    if all(isinstance(item, list) for item in items):
        rows = [_token_ids(item) for item in items]
        return "input_ids", rows, tuple(tuple(row) for row in rows), True
    ids = _token_ids(items)
    return "input_ids", ids, (tuple(ids),), False


def read_token_ids(tokens: Any) -> list[int] | list[list[int]]:
    """Read the tokens of one text or of several; raise ArgumentTypeError for anything else.

    Examples
    --------
    >>> read_token_ids((1, 2)), read_token_ids([[1], []])
    ([1, 2], [[1], []])
    """
    items = _plain(tokens)
    if not isinstance(items, list):
        raise ArgumentTypeError(
            f"Tokens must be a list, not {type(tokens).__name__}",
            where="tokens",
            hint="Give a list of token ids.",
        )
    if items and all(isinstance(item, list) for item in items):
        return [_ids(item) for item in items]
    return _ids(items)


def _token_ids(items: list[Any]) -> list[int]:
    if not items:
        raise ArgumentValueError(
            "A prompt has no token ids", where="prompt", hint="Leave the empty prompt out of the batch."
        )
    return _ids(items)


def _ids(items: list[Any]) -> list[int]:
    ids = []
    for item in items:
        try:
            ids.append(operator.index(item))
        except TypeError:
            raise ArgumentTypeError(
                f"The prompt holds {item!r} among token ids",
                where="prompt",
                hint=_FOR_CHAT
                if isinstance(item, Mapping)
                else "Give a text, a list of token ids, or a list of either; do not mix them.",
            ) from None
    return ids


def _check_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """Check sampling parameters and convert them to JSON's types."""
    params: dict[str, Any] = {}
    for name, value in given.items():
        if name not in PARAMETER_NAMES:
            raise _unknown(name, PARAMETER_NAMES, beside=OWN_NAMES)
        if value is None and name != "max_new_tokens":
            continue
        if name == "json_schema" and not isinstance(value, str):
            value = _schema_text(value)
        params[name] = _plain(value)
    try:
        SamplingParams.from_dict(params).verify()
    except ContractError as error:
        raise ArgumentTypeError(
            f"{error.parameter} has the wrong type: {error}", where="sampling_params", hint=_TYPE_HINT
        ) from error
    except ValueError as error:
        raise ArgumentValueError(str(error), where="sampling_params", hint=_RANGE_HINT) from error
    n = params.get("n")
    if n is not None and n < 1:
        raise ArgumentValueError(f"n must be at least 1, got {n}.", where="sampling_params", hint=_RANGE_HINT)
    return params


_TYPE_HINT = "Nothing was sent: give a value of the type that SGLang expects."
_RANGE_HINT = "Nothing was sent: give a value within the range."


def _schema_text(schema: Any) -> str:
    # Of a model or a TypeAdapter of pydantic, without importing pydantic.
    describe = getattr(schema, "model_json_schema", None) or getattr(schema, "json_schema", None)
    if callable(describe):
        schema = describe()
    try:
        return json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"json_schema is not JSON: {error}",
            where="sampling_params",
            hint="Give a mapping, JSON text, a pydantic model, or TypeAdapter(type) of pydantic.",
        ) from error


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentTypeError(
            f"sampling_params holds a {type(value).__name__}",
            where="sampling_params",
            hint="Give one mapping for each prompt.",
        )
    return value


def request_names(rid: str | Sequence[str] | None, count: int, batch: bool) -> tuple[str, ...]:
    """Return one request id per prompt; those of a batch are ``rid_0``, ``rid_1``, …, if not given."""
    if rid is None:
        rid = uuid.uuid4().hex
    if isinstance(rid, str):
        if not rid:
            raise ArgumentValueError("rid is empty", where="rid", hint="Give a name, or leave it out.")
        return tuple(f"{rid}_{i}" for i in range(count)) if batch else (rid,)
    if not isinstance(rid, list | tuple):
        raise ArgumentTypeError(
            f"rid must be a text or a list of texts, not {type(rid).__name__}", where="rid", hint=_RID_HINT
        )
    rids = tuple(rid)
    if len(rids) != count or len(set(rids)) != count or not all(isinstance(r, str) and r for r in rids):
        raise ArgumentValueError(
            f"rid must be {count} different names for {count} prompts" if batch else "rid must be one name",
            where="rid",
            hint=_RID_HINT,
        )
    return rids


_RID_HINT = "Give one text, or leave it out."


def _plain(value: Any) -> Any:
    """Convert tuples, sets, arrays and tensors to lists, and mappings to dicts."""
    if isinstance(value, str | bytes | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    if isinstance(value, list | tuple | set | frozenset | range):
        return [_plain(item) for item in value]
    return value
