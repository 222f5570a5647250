"""What SGLang's frontend language calls on its backend.

Floor 2. Nothing here imports sglang: the frontend language brings its own objects, and asks for no more
than the names and the behaviour.
"""

from nbruntime.chat.named_templates import get_chat_template
from nbruntime.chat.template import ChatTemplate

__all__ = ["ChatTemplate", "get_chat_template"]
