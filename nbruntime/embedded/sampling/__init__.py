"""From logits to tokens: penalties, grammar masks, the choice itself and its log-probabilities."""
