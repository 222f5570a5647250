"""Checks of log-probabilities."""

from __future__ import annotations

from typing import Any

from support.server_client import ServerClient

from conformance.suite import PROMPT, check, check_answer, form

LOGPROBS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "of the answer": (PROMPT, {}, 4),
    "of all tokens": (PROMPT, {"logprob_start_len": 0}, 2),
    "from a token on": (PROMPT, {"logprob_start_len": 3}, 2),
    "of the last token on": (PROMPT, {"logprob_start_len": 4}, 2),
    "with their texts": (PROMPT, {"logprob_start_len": 0, "return_text_in_logprobs": True}, 3),
    "and the likeliest": (PROMPT, {"logprob_start_len": 0, "top_logprobs_num": 3}, 3),
    "and chosen ones": (PROMPT, {"logprob_start_len": 0, "token_ids_logprob": [7042, 260]}, 3),
    "of the prompt only": (PROMPT, {"logprob_start_len": 0, "top_logprobs_num": 2}, 0),
    "of a batch": ([PROMPT, "Hi there"], {"logprob_start_len": [0, 1], "top_logprobs_num": [2, 0]}, 2),
    "of a part of a batch": ([PROMPT, "Hi there"], {"return_logprob": [True, False]}, 2),
}


def _enter_logprobs(name: str) -> None:
    prompt, fields, most = LOGPROBS[name]

    @check(f"logprobs: {name}")
    def logprobs(server: ServerClient) -> Any:
        server.post("/flush_cache")
        body = server.generate(prompt, fields={"return_logprob": True, **fields}, max_new_tokens=most)
        found = []
        for each in body if isinstance(body, list) else [body]:
            check_answer(each)
            meta = each["meta_info"]
            tables = {key: value for key, value in meta.items() if "logprobs" in key}
            lengths = {key: len(rows) for key, rows in tables.items() if isinstance(rows, list)}
            tokens = {
                key: [entry[1:] for entry in tables.get(key, [])]
                for key in ("input_token_logprobs", "output_token_logprobs")
            }
            found.append({"form": form(tables), "lengths": lengths, "tokens": tokens})
        return found


for _name in LOGPROBS:
    _enter_logprobs(_name)


@check("logprobs: values")
def _(server: ServerClient) -> Any:
    fields = {"return_logprob": True, "logprob_start_len": 0}
    meta = server.generate(PROMPT, fields=fields, max_new_tokens=4)["meta_info"]
    tables = (meta["input_token_logprobs"], meta["output_token_logprobs"])
    # To two digits of what is far from a half, so that two ways of adding agree.
    return [[value if value is None else round(value, 2) for value, *_ in table] for table in tables]


@check("logprobs: cached prompts have them, too")
def _(server: ServerClient) -> Any:
    server.post("/flush_cache")
    fields = {"return_logprob": True, "logprob_start_len": 2}
    first, second = (server.generate(PROMPT, fields=fields, max_new_tokens=2)["meta_info"] for _ in range(2))
    one, two = (
        [entry[0] for entry in meta["input_token_logprobs"] if entry[0] is not None]
        for meta in (first, second)
    )
    assert all(abs(a - b) < 1e-3 for a, b in zip(one, two, strict=True))
    return {"positions": len(first["input_token_logprobs"]), "cached": second["cached_tokens"] > 0}
