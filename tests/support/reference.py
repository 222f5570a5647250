"""The embedded server's model as transformers runs it, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EOS = 2


class Reference:
    """The model as transformers runs it, in float32."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def generate(self, prompt: str, max_new_tokens: int) -> tuple[list[int], list[float]]:
        """The greedy answer, and by how much each token's logit leads."""
        inputs = self.tokenizer(prompt, return_tensors="pt")
        out = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=EOS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = [row[0].topk(2).values for row in out.logits]
        return out.sequences[0, inputs.input_ids.shape[1] :].tolist(), [
            float(two[0] - two[1]) for two in best
        ]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        found: Tensor = self.model(torch.tensor([ids])).logits[0]
        return found

    @torch.inference_mode()
    def greedy(self, ids: list[int], steps: int, shape: Callable[[Tensor, list[int]], Tensor]) -> list[int]:
        """Greedy generation with logits that `shape` changes, knowing the tokens so far."""
        answer: list[int] = []
        new, past = ids, None
        for _ in range(steps):
            out = self.model(torch.tensor([new]), past_key_values=past, use_cache=True)
            new, past = [int(shape(out.logits[0, -1], answer).argmax())], out.past_key_values
            answer += new
        return answer


def check_same(ours: list[int], theirs: list[int], leads: list[float]) -> None:
    """Equal tokens, up to a place where two are so close that another order of summation swaps them."""
    different = next(
        (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
    )
    if different is None:
        assert len(ours) == len(theirs)
    else:
        assert leads[different] < 1e-3, f"token {different} differs: {ours} {theirs}"
