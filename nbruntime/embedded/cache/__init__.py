"""Which token's keys and values lie in which slot of the KV cache, and which prompts share them."""
