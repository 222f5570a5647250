"""The methods that SGLang's frontend language calls on its backend.

Names and arguments are SGLang's (0.4.10 to 0.5.23, ``lang/backend/base_backend.py`` and
``lang/backend/runtime_endpoint.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.errors import ArgumentValueError, NotFoundError
from nbruntime.frontend import programs
from nbruntime.frontend.arguments import check_gen, check_state, gen_arguments, images_of
from nbruntime.frontend.failures import mark_finished, warn_on_error
from nbruntime.frontend.interruption import in_flight
from nbruntime.frontend.readers import Readers
from nbruntime.frontend.select import select
from nbruntime.generation import Generation, GenerationStream

# What to call instead of a method of the frontend language.
COMPLETE = 'endpoint.complete("...") for the whole answer, or endpoint.stream("...") to get it as it comes'
STREAM = 'endpoint.stream("...") to get the answer as it comes'
SELECT = 'sgl.select in a program, or endpoint.complete("...", regex="(yes|no)")'
CACHE_PREFIX = 'endpoint.cache_prefix("...")'


class FrontendBackend:
    """Makes `RuntimeEndpoint`, which inherits from it, a backend of the frontend language.

    It has every method of SGLang's ``BaseBackend``, and once SGLang is imported it is an instance of it.

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
    """SGLang's server no longer joins the KV caches of forks; their texts are joined instead."""

    is_chat_model = False
    """The server completes texts; the template is applied here."""

    def _class(self) -> type:
        """Return the class; if SGLang is imported, a subclass of its ``BaseBackend`` as well."""
        base = getattr(sys.modules.get("sglang.lang.backend.base_backend"), "BaseBackend", None)
        return type(self) if base is None else _class_with(type(self), base)

    if not TYPE_CHECKING:
        # BaseBackend is no ABC with virtual subclasses, and importing it here would load SGLang for every
        # user. isinstance() reads this property as well.
        __class__ = property(_class)

    def __reduce__(self) -> tuple[Any, ...]:
        # As pickle's default, which fails because __class__ is not the type.
        return _new, (type(self),), self.__getstate__()

    @property
    def chat_template(self) -> ChatTemplate:
        """The template that writes messages as a prompt."""
        raise NotImplementedError

    def complete(self, prompt: Any, **arguments: Any) -> Generation | list[Generation]:
        """Generate, and wait for the whole answer."""
        raise NotImplementedError

    def stream(self, prompt: Any, **arguments: Any) -> GenerationStream:
        """Generate, and return a stream of the text."""
        raise NotImplementedError

    def abort(self, rid: str | Sequence[str]) -> None:
        """Stop requests by their ids."""
        raise NotImplementedError

    def tokenize(self, text: Any) -> Any:
        """Turn texts into tokens."""
        raise NotImplementedError

    def cache_prefix(self, prefix_str: str) -> None:
        """Compute a text into the KV cache."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections."""
        raise NotImplementedError

    def get_chat_template(self) -> ChatTemplate:
        """Return `chat_template`."""
        return self.chat_template

    def generate(self, s: Any = None, sampling_params: Any = None, **_: Any) -> tuple[str | list[str], Any]:
        """Run ``sgl.gen`` without a stream, with the text of the state `s` as the prompt.

        Returns
        -------
        (str or list of str, dict or list of dict)
            Text and ``meta_info``; lists for ``n > 1``.
        """
        check_gen(s, sampling_params, "generate", COMPLETE)
        with (
            warn_on_error("sgl.gen", s),
            in_flight.track(self) as rid,
            programs.record_step(s, "gen") as step,
        ):
            answer = self.complete(s.text_, rid=rid, **gen_arguments(s, sampling_params))
            if isinstance(answer, list):
                step.set_answers(answer, [single.meta_info for single in answer])
                return [single.text for single in answer], step.meta_info
            step.set_answers([answer], answer.meta_info)
            return answer.text, answer.meta_info

    def generate_stream(
        self, s: Any = None, sampling_params: Any = None, **_: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run ``sgl.gen`` with a stream; ``n`` must be 1.

        Returns
        -------
        iterator of (str, dict)
            New text, and ``meta_info`` with the logprobs of the new tokens.
        """
        check_gen(s, sampling_params, "generate_stream", STREAM)
        return self._generate_stream(s, sampling_params)

    def _generate_stream(self, s: Any, sampling_params: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        with (
            warn_on_error("sgl.gen", s),
            in_flight.track(self) as rid,
            programs.record_step(s, "gen") as step,
        ):
            arguments = gen_arguments(s, sampling_params)
            if (arguments["sampling_params"].get("n") or 1) > 1:
                raise ArgumentValueError(
                    "A stream of the frontend language has one answer, not n > 1",
                    where="n",
                    hint="Run the program without stream=True, or use endpoint.stream(...).indexed().",
                )
            readers = Readers(s)
            with self.stream(s.text_, rid=rid, **arguments) as stream:
                for delta in stream.deltas():
                    step.meta_info = meta_info = delta.meta_info
                    readers.update()
                    yield delta.text, meta_info
                answer = stream.result()
                assert isinstance(answer, Generation)
                step.set_answers([answer], step.meta_info)
        readers.wait_until_consumed()

    def select(
        self, s: Any, choices: Sequence[str] = (), temperature: float = 0.0, choices_method: Any = None
    ) -> Any:
        """Run ``sgl.select``: let the model choose one of several texts.

        Parameters
        ----------
        s : StreamExecutor
            State of the program.
        choices : sequence of str
            The texts to choose from.
        temperature : float
            Must be at most 1e-5.
        choices_method : ChoicesSamplingMethod
            Makes the decision, which is returned.
        """
        check_state(s, "select", SELECT)
        with (
            warn_on_error("sgl.select", s),
            in_flight.track(self),
            programs.record_step(s, "select", choices) as step,
        ):
            decision = select(self, s.text_, choices, temperature, choices_method, images_of(s))
            step.set_decision(decision)
            return decision

    def commit_lazy_operations(self, s: Any) -> None:
        """Compute the state's text and images into the KV cache, before it is forked."""
        check_state(s, "commit_lazy_operations", CACHE_PREFIX)
        if s.text_:
            with warn_on_error("fork", s), in_flight.track(self) as rid:
                self.complete(s.text_, rid=rid, max_new_tokens=0, image_data=images_of(s))

    def fill_image(self, s: Any) -> None:
        """Compute the state's text and images into the KV cache."""
        check_state(s, "fill_image", CACHE_PREFIX)
        self.commit_lazy_operations(s)

    def begin_program(self, s: Any) -> None:
        """Do nothing: no state is kept for a program."""

    def end_program(self, s: Any) -> None:
        """Record how a program or a fork ended; also called while it is being deleted."""
        programs.record_end(s)
        mark_finished(s)

    def fork_program(self, src: Any, dst: Any, position_ids_offset: Sequence[int] | None = None) -> None:
        """Do nothing: the server finds the common prefix by itself."""

    def uncache_prefix(self, rid: str) -> None:
        """Do nothing: the server's radix cache evicts by itself."""

    def end_request(self, rid: str | list[str]) -> None:
        """Do nothing: no state is kept for a request."""

    def concatenate_and_append(self, src_rids: list[str], dst_rid: str) -> None:
        """Raise `NotFoundError`: SGLang's server can no longer join KV caches."""
        raise NotFoundError(
            "SGLang's server cannot join the KV caches of forks",
            where="concatenate_and_append",
            hint="Use forks.join('concate_and_append'), which joins their texts.",
        )

    def shutdown(self) -> None:
        """Close the connections; the server is stopped by the runtime that owns it."""
        self.close()


def _new(cls: type) -> object:
    return object.__new__(cls)


_classes: dict[tuple[type, type], type] = {}


def _class_with(cls: type, base: type) -> type:
    known = _classes.get((cls, base))
    if known is None:
        names = ("__module__", "__qualname__", "__doc__")
        made = type(cls.__name__, (cls, base), {name: getattr(cls, name) for name in names})
        known = _classes.setdefault((cls, base), made)
    return known
