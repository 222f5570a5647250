"""Messages, chat templates, tokenizers and conversations."""

from nbruntime.chat.chat_template import ChatTemplate
from nbruntime.chat.conversation import Conversation
from nbruntime.chat.named_templates import get_chat_template

__all__ = ["ChatTemplate", "Conversation", "get_chat_template"]
