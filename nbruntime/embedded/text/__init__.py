"""Between text and tokens: the tokenizer, text that grows token by token, and where it ends."""
