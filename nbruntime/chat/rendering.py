"""Choose the chat template of a model, and write messages as a prompt.

The frontend language writes a conversation piece by piece, so a template returns the text before and after
one message (`nbruntime.chat.chat_template.ChatTemplate`). The tokenizer's own template is better than a guess
by the model's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.chat.named_templates import guess_chat_template
from nbruntime.chat.tokenizer_template import TokenizerTemplate
from nbruntime.protocol.messages import Message, text_of


def find_chat_template(model_info: Mapping[str, Any]) -> ChatTemplate:
    """Choose a model's template: the tokenizer's own, else a guess by `model_info`."""
    model_path = str(model_info.get("model_path") or "")
    guess = guess_chat_template(model_path)
    tokenizer_path = str(model_info.get("tokenizer_path") or model_path)
    try:
        own = TokenizerTemplate.load(tokenizer_path, image_token=guess.image_token)
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        warnings.warn(
            f"The chat template of {tokenizer_path} cannot be read here ({reason}); "
            f"using the template {guess.name!r}, guessed from the model's name. "
            "Name another one with chat_template_name=...",
            stacklevel=4,  # the caller of the endpoint's chat_template
        )
        return guess
    return guess if own is None else own


def render_chat(template: ChatTemplate, messages: Sequence[Message]) -> str:
    r"""Write a whole conversation as a prompt, without the BOS text that the server adds.

    Examples
    --------
    >>> from nbruntime.chat.named_templates import get_chat_template
    >>> render_chat(get_chat_template("chatml"), [{"role": "user", "content": "Hello"}])
    '<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n'
    """
    if isinstance(template, TokenizerTemplate):
        return template.render_chat(messages)
    spoken: list[Message] = list(messages)
    if template.default_system_prompt and (not spoken or spoken[0]["role"] != "system"):
        spoken.insert(0, {"role": "system", "content": template.default_system_prompt})
    parts = []
    for place, message in enumerate(spoken):
        prefix, suffix = template.get_prefix_and_suffix(message["role"], spoken[:place])
        parts += [prefix, text_of(message, place), suffix]
    return "".join([*parts, template.get_prefix_and_suffix("assistant", spoken)[0]])
