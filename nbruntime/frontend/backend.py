"""The calls that SGLang's frontend language makes on its backend.

Names and arguments are SGLang's (0.5.2 to 0.5.23, ``lang/backend/base_backend.py`` and
``lang/backend/runtime_endpoint.py``); what a program state is, is read off its attributes.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from nbruntime.errors import ArgumentValueError
from nbruntime.frontend.select import select
from nbruntime.frontend.template import ChatTemplate
from nbruntime.generation import Generation, GenerationStream

_DTYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    # The pattern that a value follows, and the texts that end it; as in SGLang's lang/ir.py.
    "int": (r"[-+]?[0-9]+[ \n]*", (" ", "\n")),
    "float": (r"[-+]?[0-9]*\.?[0-9]+[ \n]*", (" ", "\n")),
    "bool": (r"(True|False)", ()),
    "str": (r"\"[\w\d\s]*\"", ()),
}

_OPTIONS = ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")


class FrontendBackend:
    """What makes an endpoint a backend of the frontend language; `RuntimeEndpoint` inherits from it.

    Examples
    --------
    With a server running and ``sglang`` installed::

        import sglang as sgl
        sgl.set_default_backend(endpoint)

        @sgl.function
        def chatbot(s, message):
            s += sgl.user(message)
            s += sgl.assistant(sgl.gen("answer", max_tokens=100))

        print(chatbot.run(message="What is machine learning?")["answer"])
    """

    support_concate_and_append = False
    """Joining forks by their KV caches is gone from SGLang's server; texts are joined instead."""

    is_chat_model = False
    """The server completes texts; the template is applied here."""

    @property
    def chat_template(self) -> ChatTemplate:
        """How messages become a prompt."""
        raise NotImplementedError

    def complete(self, prompt: Any, **arguments: Any) -> Generation | list[Generation]:
        """Generate, and wait for the whole answer."""
        raise NotImplementedError

    def stream(self, prompt: Any, **arguments: Any) -> GenerationStream:
        """Generate, and give the text as it comes."""
        raise NotImplementedError

    def cache_prefix(self, prefix_str: str) -> None:
        """Bring a text into the KV cache."""
        raise NotImplementedError

    def get_chat_template(self) -> ChatTemplate:
        """How messages become a prompt."""
        return self.chat_template

    def generate(self, s: Any, sampling_params: Any, **_: Any) -> tuple[str | list[str], Any]:
        """Run ``sgl.gen`` without a stream.

        Parameters
        ----------
        s : StreamExecutor
            State of the program: its text is the prompt.
        sampling_params : SglSamplingParams
            How to generate; it is not changed.

        Returns
        -------
        (str or list of str, dict or list of dict)
            Text and ``meta_info``; lists for ``n > 1``.
        """
        answer = self.complete(s.text_, **_arguments(s, sampling_params))
        if isinstance(answer, list):
            return [single.text for single in answer], [single.meta_info for single in answer]
        return answer.text, answer.meta_info

    def generate_stream(self, s: Any, sampling_params: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run ``sgl.gen`` with a stream.

        Parameters
        ----------
        s : StreamExecutor
            State of the program.
        sampling_params : SglSamplingParams
            How to generate; ``n`` must be 1.

        Yields
        ------
        (str, dict)
            What is new: text, and ``meta_info`` with the logprobs of the new tokens.
        """
        arguments = _arguments(s, sampling_params)
        if (arguments["sampling_params"].get("n") or 1) > 1:
            raise ArgumentValueError(
                "A stream of the frontend language has one answer, not n > 1",
                where="n",
                hint="Run the program without stream=True, or use endpoint.stream(...).indexed().",
            )
        with self.stream(s.text_, **arguments) as stream:
            for delta in stream.deltas():
                yield delta.text, delta.meta_info

    def select(self, s: Any, choices: Sequence[str], temperature: float, choices_method: Any) -> Any:
        """Run ``sgl.select``: let the model choose one of several texts.

        Parameters
        ----------
        s : StreamExecutor
            State of the program.
        choices : sequence of str
            The texts to choose from.
        temperature : float
            Must be 0, or nearly.
        choices_method : ChoicesSamplingMethod
            SGLang's rule of choice.

        Returns
        -------
        ChoicesDecision
            What the rule gives: ``decision`` and ``meta_info``.
        """
        return select(self, s.text_, choices, temperature, choices_method, _images(s))

    def commit_lazy_operations(self, s: Any) -> None:
        """Bring the state's text into the KV cache, before it is forked."""
        if s.text_:
            self.complete(s.text_, max_new_tokens=0, image_data=_images(s))

    def fill_image(self, s: Any) -> None:
        """Bring the state's text and images into the KV cache."""
        self.commit_lazy_operations(s)

    def begin_program(self, s: Any) -> None:
        """Nothing is kept for a program."""

    def end_program(self, s: Any) -> None:
        """Nothing is kept for a program."""

    def fork_program(self, src: Any, dst: Any, position_ids_offset: Sequence[int] | None = None) -> None:
        """Nothing is kept for a program; the server finds the common prefix by itself."""

    def uncache_prefix(self, rid: str) -> None:
        """Leave it to the server's radix cache what to drop."""

    def end_request(self, rid: str) -> None:
        """Nothing is kept for a request."""


def _arguments(s: Any, sampling_params: Any) -> dict[str, Any]:
    """Turn the frontend's objects into arguments of `complete`."""
    params: dict[str, Any] = {**_output_settings(), **sampling_params.to_srt_kwargs()}
    dtype = getattr(sampling_params, "dtype", None)
    if dtype is not None:
        name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "")
        if name not in _DTYPES:
            raise ArgumentValueError(
                f"There is no dtype {dtype!r}", where="dtype", hint=f"There are: {', '.join(_DTYPES)}."
            )
        if params.get("regex") is not None:
            warnings.warn(f"dtype={name} goes before regex={params['regex']!r}", stacklevel=4)
        params["regex"], ends = _DTYPES[name]
        stop = params.get("stop") or ()
        params["stop"] = [*((stop,) if isinstance(stop, str) else stop), *ends]
    options = {option: getattr(sampling_params, option, None) for option in _OPTIONS}
    return {"sampling_params": params, "image_data": _images(s), **options}


def _output_settings() -> dict[str, bool]:
    """Read the frontend's own settings of how tokens become text."""
    for module in ("sglang.lang.global_config", "sglang.global_config"):
        settings = getattr(sys.modules.get(module), "global_config", None)
        if settings is not None:
            return {
                "skip_special_tokens": settings.skip_special_tokens_in_output,
                "spaces_between_special_tokens": settings.spaces_between_special_tokens_in_out,
            }
    return {}


def _images(s: Any) -> Any:
    """Give the state's images as a request takes them: pairs of path and base64 text."""
    data = [encoded for _, encoded in getattr(s, "images_", None) or ()]
    return data[0] if len(data) == 1 else data or None
