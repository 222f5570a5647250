"""A backend for SGLang's frontend language.

Floor 2. Nothing here imports sglang: the frontend language passes its own objects, and only their attributes
are read.
"""

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.chat.named_templates import get_chat_template

__all__ = ["ChatTemplate", "get_chat_template"]
