"""Models that the scripted server plays: their answers follow from the prompt."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator
from typing import Any

from support.scripted_server import Asked, Reply, answer, stream

WORDS = re.compile(r"\s?\w+|\s|[^\w\s]")

CONSTRAINED = {
    "[0-9]{2}": "42",
    r"[-+]?[0-9]+[ \n]*": "7",
    r"[-+]?[0-9]*\.?[0-9]+[ \n]*": "0.5",
    "(True|False)": "True",
    r"\"[\w\d\s]*\"": '"word"',
}
"""What the model writes under each pattern."""


class Model:
    """Writes words that follow from the prompt; scores tokens by what they are and what stands before."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, asked: Asked) -> Reply:
        body = asked.json
        self.bodies.append({name: value for name, value in body.items() if name != "rid"})
        prompt = body.get("text", body.get("input_ids"))
        prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
        if body.get("stream"):
            return stream(*self.events(prompt, body))
        samples = body["sampling_params"].get("n") or 1
        answers = [list(self.events(each, body))[-1] for each in prompts for _ in range(samples)]
        return Reply(json=answers if len(answers) > 1 or prompts is prompt else answers[0])

    def events(self, prompt: Any, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ids = self.tokens(prompt) if isinstance(prompt, str) else prompt
        params = body["sampling_params"]
        made = self.written("".join(self.names[each] for each in ids), params)
        meta: dict[str, Any] = {"prompt_tokens": len(ids)}
        if body.get("return_logprob"):
            start = body.get("logprob_start_len") or 0
            meta["input_token_logprobs"] = self.scores(ids, start)
        for count in range(min(len(made), 1), len(made) + 1):
            if body.get("return_logprob"):
                meta["output_token_logprobs"] = self.scores([*ids[-1:], *made[:count]], 0)[1:]
                tops = [[[-1.0, 0, "x"]] * (body.get("top_logprobs_num") or 0)] * count
                meta["output_top_logprobs"] = tops
            text = "".join(self.names[each] for each in made[:count])
            reason = {"type": "length", "length": count} if count == len(made) else None
            yield answer(text, made[:count], finish_reason=reason, **meta)

    def written(self, prompt: str, params: dict[str, Any]) -> list[int]:
        limit = params.get("max_new_tokens", 128)
        if not limit:
            return []
        if params.get("json_schema"):
            return self.tokens('{"a": 1}')
        if params.get("regex"):
            return self.tokens(CONSTRAINED[params["regex"]])
        choose = random.Random(zlib.crc32(prompt.encode()))
        return self.tokens("".join(f" {choose.choice('abcdef')}" for _ in range(limit)))

    def tokens(self, text: str) -> list[int]:
        ids = []
        for piece in WORDS.findall(text):
            ids.append(zlib.crc32(piece.encode()) % 65521)
            assert self.names.setdefault(ids[-1], piece) == piece
        return ids

    def scores(self, ids: list[int], start: int) -> list[list[Any]]:
        assert 0 <= start < len(ids)
        return [
            [
                None if at == start else -(1 + (ids[at] + 7 * ids[at - 1]) % 50) / 10,
                ids[at],
                self.names[ids[at]],
            ]
            for at in range(start, len(ids))
        ]


PIECES = ["The", " answer", " is", " ", " yes", " no", "yes", "no", " maybe", "!", "A", "AA", "a", "b", "c"]
"""The vocabulary of the scripted model, longest match first."""


def tokenize(text: str) -> list[int]:
    ids = []
    while text:
        piece = max((p for p in PIECES if text.startswith(p)), key=len)
        ids.append(PIECES.index(piece))
        text = text[len(piece) :]
    return ids


LOGPROBS = {
    " yes": -0.5,
    " no": -1.5,
    "yes": -2.0,
    "no": -0.25,
    "!": -0.1,
    " maybe": -3.0,
    "A": 0.0,
    "AA": -4.0,
}


def logprob(token_id: int, after: int | None) -> float:
    own = LOGPROBS.get(PIECES[token_id], -1.0)
    return own if after is None or PIECES[after] != "!" else own - 5


class ScriptedModel:
    """Answers `/generate` like a server would, with the tiny vocabulary above."""

    def __call__(self, asked: Asked) -> Reply:
        body = asked.json
        prompts = body.get("text", body.get("input_ids"))
        many = isinstance(prompts, list) and not isinstance(prompts[0], int)
        prompts = prompts if many else [prompts]
        answers = [self.score(prompt, body, place) for place, prompt in enumerate(prompts)]
        return Reply(json=answers if many else answers[0])

    def score(self, prompt: str | list[int], body: dict[str, Any], place: int) -> dict[str, Any]:
        assert body["sampling_params"]["max_new_tokens"] == 0
        ids = tokenize(prompt) if isinstance(prompt, str) else prompt
        meta: dict[str, Any] = {"prompt_tokens": len(ids), "completion_tokens": 0}
        if body.get("return_logprob"):
            start = body.get("logprob_start_len", -1)
            start = start if isinstance(start, int) else start[place]
            assert 0 <= start < len(ids)
            meta["input_token_logprobs"] = [
                [None if at == start else logprob(ids[at], ids[at - 1]), ids[at], PIECES[ids[at]]]
                for at in range(start, len(ids))
            ]
            meta["output_token_logprobs"] = [[-1.0, 0, "The"]]
        return answer("", [], **meta)
