"""Text and tokens: the tokenizer, incremental decoding, stop strings."""
