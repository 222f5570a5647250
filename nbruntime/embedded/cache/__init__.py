"""Maps tokens to slots of the KV cache and shares the slots of common prefixes."""
