"""Messages, chat templates, tokenizers and conversations."""
