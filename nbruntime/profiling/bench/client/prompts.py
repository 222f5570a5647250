"""Makes the bodies of the requests, from a plan."""

from __future__ import annotations

import msgspec
import numpy as np

from nbruntime.profiling.bench.plan import OWN_TOKENS, ClientPlan, PlannedRequest


class Prompts:
    """The prompts of a plan; the same plan always gives the same ones."""

    def __init__(self, plan: ClientPlan) -> None:
        self._plan = plan
        self._vocabulary = np.array(plan.vocabulary, dtype=np.int64)

    def planned(self, number: int) -> PlannedRequest:
        """Return the plan of a request; after the last it begins again."""
        return self._plan.requests[number % len(self._plan.requests)]

    def body(self, number: int, rid: str) -> bytes:
        """Make the body of a request, as JSON."""
        planned = self.planned(number)
        body = {**self._plan.body, "rid": rid, "stream": True}
        if planned.output_tokens is not None:
            body["sampling_params"] = {**body["sampling_params"], "max_new_tokens": planned.output_tokens}
        prompt = self.tokens(number) if planned.prompt is None else self._plan.prompts[planned.prompt]
        body["text" if isinstance(prompt, str) else "input_ids"] = prompt
        return msgspec.json.encode(body)

    def tokens(self, number: int) -> list[int]:
        """Make the random tokens of a request."""
        tokens: list[int] = []
        for key, length in self.planned(number).blocks:
            # Own tokens are new in every round through the plan; a key gives the same beginning each time.
            which = [0, number] if key == OWN_TOKENS else [1, key]
            random = np.random.default_rng([*self._plan.seed, *which])
            tokens += self._vocabulary[random.integers(len(self._vocabulary), size=length)].tolist()
        return tokens
