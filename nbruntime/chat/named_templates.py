"""The named chat templates, with SGLang's names and texts (0.5.23, ``lang/chat_template.py``)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.errors import ArgumentTypeError, ArgumentValueError
from nbruntime.protocol.messages import Message
from nbruntime.protocol.nearest_names import nearest_name


@dataclass(frozen=True)
class NamedTemplate:
    r"""A chat template of SGLang's table.

    Parameters
    ----------
    name : str
        SGLang's name for it.
    roles : mapping of str to (str, str)
        Text before and after a message of each role.
    stop_str : tuple of str
        Texts that end a message.
    default_system_prompt : str or None
        System message of a conversation without one.
    image_token : str
        Text that stands for an image.
    system_in_user : bool
        True for Llama 2: the system message is part of the first user message.

    Examples
    --------
    >>> get_chat_template("chatml").get_prefix_and_suffix("user", [])
    ('<|im_start|>user\n', '<|im_end|>\n')
    """

    name: str
    roles: Mapping[str, tuple[str, str]] = field(repr=False)
    stop_str: tuple[str, ...] = ()
    default_system_prompt: str | None = None
    image_token: str = "<image>"
    system_in_user: bool = False

    def get_prefix_and_suffix(self, role: str, hist_messages: Sequence[Message]) -> tuple[str, str]:
        """Return the text before and after a message of `role` that follows `hist_messages`.

        Both are empty for a role that the template does not know.
        """
        prefix, suffix = self.roles.get(role, ("", ""))
        if self.system_in_user:
            if role == "system" and not hist_messages:
                prefix = self.roles["user"][0] + prefix
            elif role == "user" and len(hist_messages) == 1 and hist_messages[0].get("content") is not None:
                prefix = ""
        return prefix, suffix


def get_chat_template(name: str) -> ChatTemplate:
    """Return the template of a name: one of `TEMPLATES`, or one registered with SGLang in this process.

    Raises
    ------
    ArgumentValueError
        If no template has this name.
    """
    registered = _sglang_registry("chat_template_registry") or {}
    template: ChatTemplate | None = TEMPLATES.get(name) or registered.get(name)
    if template is None:
        meant = nearest_name(name, (*TEMPLATES, *registered))
        raise ArgumentValueError(
            f"Unknown chat template: {name!r}",
            where="chat_template_name",
            hint=f"Did you mean {meant!r}?" if meant else f"Use one of: {', '.join(TEMPLATES)}.",
        )
    return template


def read_chat_template(given: str | ChatTemplate | None) -> ChatTemplate | None:
    """Check what a caller gives as a template: a name, a template (SGLang's too), or nothing.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        If it is no template; if no template has this name.
    """
    if given is None or given == "":
        return None
    if isinstance(given, str):
        return get_chat_template(given)
    missing = [name for name in _PARTS if not hasattr(given, name)]
    if isinstance(given, type) or missing:
        raise ArgumentTypeError(
            f"A {type(given).__name__} is not a chat template",
            where="chat_template",
            hint="Give a template's name, such as 'chatml', or a ChatTemplate of nbruntime or SGLang.",
        )
    return given


_PARTS = ("name", "default_system_prompt", "stop_str", "image_token", "get_prefix_and_suffix")


def guess_chat_template(model_path: str) -> ChatTemplate:
    """Choose a template by the name of the model, as SGLang does.

    The functions that were registered with SGLang in this process are asked first.

    Examples
    --------
    >>> guess_chat_template("meta-llama/Llama-3.1-8B-Instruct").name
    'llama-3-instruct'
    """
    for match in _sglang_registry("matching_function_registry") or ():
        found = read_chat_template(match(model_path))  # a name, and a template up to 0.4.3
        if found is not None:
            return found
    for pattern, name in _GUESSES:
        if re.search(pattern, model_path, re.IGNORECASE):
            return TEMPLATES[name]
    return TEMPLATES["default"]


def _sglang_registry(name: str) -> Any:
    """Return a registry of SGLang's templates, if SGLang is imported."""
    return getattr(sys.modules.get("sglang.lang.chat_template"), name, None)


def _roles(
    system: tuple[str, str], user: tuple[str, str], assistant: tuple[str, str]
) -> dict[str, tuple[str, str]]:
    return {"system": system, "user": user, "assistant": assistant}


def _tagged(before: str, after: str, *, assistant: str = "assistant") -> dict[str, tuple[str, str]]:
    """Return roles that differ only in their name, which replaces ``{}`` in `before`."""
    return _roles(
        (before.format("system"), after), (before.format("user"), after), (before.format(assistant), after)
    )


_CHATML = _tagged("<|im_start|>{}\n", "<|im_end|>\n")
_HELPFUL = "You are a helpful assistant."

TEMPLATES: dict[str, NamedTemplate] = {
    template.name: template
    for template in (
        NamedTemplate("default", _roles(("SYSTEM:", "\n"), ("USER:", "\n"), ("ASSISTANT:", "\n"))),
        NamedTemplate("claude", _roles(("", ""), ("\n\nHuman: ", ""), ("\n\nAssistant:", ""))),
        NamedTemplate("chatml", _CHATML, ("<|im_end|>",)),
        NamedTemplate("chatml-llava", _CHATML, ("<|im_end|>",), _HELPFUL, "<image>\n"),
        NamedTemplate("qwen", _CHATML, ("<|im_end|>",), _HELPFUL),
        NamedTemplate(
            "qwen2-vl", _CHATML, ("<|im_end|>",), _HELPFUL, "<|vision_start|><|image_pad|><|vision_end|>"
        ),
        NamedTemplate(
            "vicuna_v1.1",
            _roles(("", " "), ("USER:", " "), ("ASSISTANT:", "</s>")),
            default_system_prompt="A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions.",
            image_token=" <image>\n",
        ),
        NamedTemplate(
            "llama-2-chat",
            _roles(("<<SYS>>\n", "\n<</SYS>>\n\n"), ("[INST] ", " [/INST]"), ("", " </s><s>")),
            system_in_user=True,
        ),
        NamedTemplate(
            "mistral",
            _roles(("[SYSTEM_PROMPT] ", " [/SYSTEM_PROMPT]"), ("[INST] ", " [/INST]"), ("", " </s><s>")),
            ("</s>",),
            image_token="[IMG]",
        ),
        NamedTemplate(
            "llama-3-instruct",
            _tagged("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
            ("<|eot_id|>",),
            image_token="<|image|>",
        ),
        NamedTemplate(
            "llama-4",
            _tagged("<|header_start|>{}<|header_end|>\n\n", "<|eot|>"),
            ("<|eot|>",),
            image_token="<|image|>",
        ),
        NamedTemplate(
            "yi-1.5",
            _roles(
                ("", ""),
                ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
                ("", "<|im_end|>\n"),
            ),
            ("<|im_end|>",),
        ),
        NamedTemplate(
            "gemma-it",
            {**_tagged("<start_of_turn>{}\n", "<end_of_turn>\n", assistant="model"), "system": ("", "")},
            image_token="<start_of_image>",
        ),
        NamedTemplate(
            "c4ai-command-r",
            _roles(
                ("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
                ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
                ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            ),
        ),
        NamedTemplate(
            "granite-3-instruct",
            _tagged("<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>"),
            ("<|end_of_text|>",),
        ),
        NamedTemplate(
            "deepseek-v3",
            _roles(("", ""), ("<｜User｜>", ""), ("<｜Assistant｜>", "<｜end▁of▁sentence｜>")),
            ("<｜end▁of▁sentence｜>",),
        ),
        NamedTemplate(
            "glm-4v",
            _tagged("<|{}|>\n", "\n"),
            ("<|user|>", "<|endoftext|>", "<|observation|>"),
            image_token="<|image|>",
        ),
    )
}
"""The named templates."""

_GUESSES = (
    (r"^(?!.*base).*deepseek-(v3|r1)", "deepseek-v3"),
    (r"orion", "claude"),
    (r"vicuna|llava-v1\.5|llava-next-video-7b", "vicuna_v1.1"),
    (r"llama-2.*chat|codellama.*instruct", "llama-2-chat"),
    (r"pixtral|(mistral|mixtral).*instruct", "mistral"),
    (r"llama-3.*instruct", "llama-3-instruct"),
    (r"llama-4.*instruct", "llama-4"),
    (r"tinyllama", "chatml"),
    (r"qwen.*vl", "qwen2-vl"),
    (r"glm[-_]?4(\.\d+)?v", "glm-4v"),
    (r"llava-v1\.6-(34b|yi-34b)|llava-next-video-34b|llava-onevision-qwen2", "chatml-llava"),
    (r"^(?!.*llava).*qwen.*(chat|instruct)", "qwen"),
    (r"yi-1\.5.*chat", "yi-1.5"),
    (r"gemma.*it|gemma-3", "gemma-it"),
    (r"c4ai-command-r", "c4ai-command-r"),
    (r"granite.*instruct", "granite-3-instruct"),
    (r"smollm.*instruct|qwen3|hermes", "chatml"),  # SGLang takes "default" for these
)
