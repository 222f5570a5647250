"""The model behind a small seam: a batch of tokens goes in, logits come out."""
