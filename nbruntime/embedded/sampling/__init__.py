"""From logits to tokens: penalties, grammar masks, sampling, log-probabilities."""
