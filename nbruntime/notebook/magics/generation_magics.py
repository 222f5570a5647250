"""Magics that generate text: ``%%sgl_generate`` and ``%%sgl_chat``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from IPython.core.error import UsageError
from IPython.core.magic import magics_class
from IPython.core.magic_arguments import argument, argument_group

from nbruntime.errors import GenerationError
from nbruntime.notebook.magics.base import MagicsBase
from nbruntime.notebook.magics.options import (
    ANSWER,
    PROMPT,
    SAMPLES,
    SAMPLING,
    magic,
    sampling_of,
    variable_name,
)
from nbruntime.notebook.magics.presenting import prepare, show_generations, show_stream
from nbruntime.notebook.magics.prompts import fill_template, read_schema

if TYPE_CHECKING:
    from nbruntime.chat.conversation import Conversation
    from nbruntime.generation import Generation

LAST = "_sgl"
"""Variable that holds the last answer, as IPython's ``_`` holds the last output."""

Keep = Callable[[Sequence["Generation"]], None]


@magics_class
class GenerationMagics(MagicsBase):
    """Magics that send their cell to a server and show the answer."""

    @magic(
        "cell",
        *PROMPT,
        argument("--chat", action="store_true", help="send the cell as a chat message; --system implies it"),
        *SAMPLING,
        SAMPLES,
        *ANSWER,
    )
    def sgl_generate(self, arguments: Namespace, names: Mapping[str, Any], cell: str) -> None:
        """Generate text with the cell as the prompt, and stream the answer below it.

        `_sgl` and the variable of -o hold the answer: a Generation, or a list of them for --n; after an
        interrupt, the part received so far. Values on the line may be {expressions} and $names. Quotes
        group words; a backslash is literal, even before a quote.

        Examples::

            %%sgl_generate -o answer --temperature 0 --max-new-tokens 32
            The capital of France is

            %%sgl_generate --chat --system "Be brief." --template
            Explain {{word}}.
        """
        prompt = _prompt(arguments, names, cell)
        if arguments.chat or arguments.system is not None:
            from nbruntime.chat.conversation import Conversation

            messages = Conversation(arguments.system).asking(prompt)
            self._answer(arguments, names, messages, self._keeper(arguments.out))
        else:
            self._answer(arguments, names, prompt, self._keeper(arguments.out))

    @magic(
        "cell",
        argument_group("conversation"),
        argument(
            "--conversation",
            type=variable_name,
            default="conversation",
            metavar="NAME",
            help="variable that holds the conversation; created if missing (default: conversation)",
        ),
        argument("--reset", action="store_true", help="start a new conversation with the same instructions"),
        *PROMPT,
        *SAMPLING,
        *ANSWER,
    )
    def sgl_chat(self, arguments: Namespace, names: Mapping[str, Any], cell: str) -> None:
        """Send the cell as a message of a conversation that continues from cell to cell.

        The conversation is an object in a variable: it shows its transcript, `messages` has the messages, and
        `undo()` removes the last turn. After an interrupt it holds the part received so far.

        Examples::

            %%sgl_chat --system "You are a patient teacher."
            Why is the sky blue?

            %%sgl_chat
            And at sunset?
        """
        prompt = _prompt(arguments, names, cell)
        talk = self._conversation(arguments.conversation, anew=arguments.reset)
        if arguments.system is not None:
            talk.system = arguments.system
        keep_answer = self._keeper(arguments.out)

        def keep(generations: Sequence[Generation]) -> None:
            keep_answer(generations)
            if generations[0].text:
                talk.add(prompt, generations[0])
                self.shell.push({arguments.conversation: talk})

        self._answer(arguments, names, talk.asking(prompt), keep)

    def _conversation(self, name: str, *, anew: bool) -> Conversation:
        from nbruntime.chat.conversation import Conversation

        talk = self.shell.user_ns.get(name)
        if talk is None:
            return Conversation()
        if not isinstance(talk, Conversation):
            raise UsageError(
                f"The variable {name} is a {type(talk).__name__}, not a conversation.\n"
                "Give another name: --conversation NAME."
            )
        return Conversation(talk.system) if anew else talk

    def _answer(self, arguments: Namespace, names: Mapping[str, Any], prompt: Any, keep: Keep) -> None:
        """Send the request, show the answer, and keep what was received of it."""
        endpoint = self.servers.find(arguments.endpoint or self.endpoint).endpoint
        chat = not isinstance(prompt, str)
        view = arguments.view or self.view
        given = _request(arguments, names) | {"sampling_params": self.sampling}
        if arguments.no_stream:
            try:
                answer = (endpoint.chat if chat else endpoint.complete)(prompt, **given)
            except GenerationError as error:
                keep(cast("Sequence[Generation]", error.generations))
                raise
            generations = answer if isinstance(answer, list) else [answer]
            keep(generations)
            show_generations(generations, view=view)
            return
        prepare(view)
        stream = (endpoint.stream_chat if chat else endpoint.stream)(prompt, **given)
        try:
            show_stream(stream, view=view, draws_per_second=self.draws_per_second)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (f"the text received so far is in {arguments.out or LAST}",)
            raise
        finally:
            keep(stream.generations)

    def _keeper(self, name: str | None) -> Keep:
        from nbruntime.generation import Generations

        def keep(generations: Sequence[Generation]) -> None:
            result = generations[0] if len(generations) == 1 else Generations(generations)
            self.shell.push({LAST: result}, interactive=False)
            if name:
                self.shell.push({name: result})

        return keep

    def forget_result(self) -> None:
        """Remove the variable `_sgl`."""
        self.shell.user_ns.pop(LAST, None)
        self.shell.user_ns_hidden.pop(LAST, None)


def _prompt(arguments: Namespace, names: Mapping[str, Any], cell: str) -> str:
    text = cell.removesuffix("\n")  # IPython adds it
    return fill_template(text, names) if arguments.template else text


def _request(arguments: Namespace, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a line as arguments of a client."""
    given = sampling_of(arguments)
    if arguments.json_schema is not None:
        given["json_schema"] = read_schema(arguments.json_schema, names)
    if arguments.logprobs is not None:
        given |= {"return_logprob": True, "top_logprobs_num": arguments.logprobs or None}
    for name in ("lora_path", "timeout"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    return given
