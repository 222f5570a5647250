"""Answers of the embedded server that follow a grammar."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.embedded_server import EmbeddedServer
from support.reference import EOS

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.model
def test_answers_follow_their_grammars(server: EmbeddedServer) -> None:
    regex = r"(red|green|blue)(, (red|green|blue)){1,2}\."
    ebnf = 'root ::= "yes" | "no" digits\ndigits ::= [0-9] [0-9]?'
    hot = {"temperature": 2.0, "n": 3, "sampling_seed": 4}
    bodies: dict[str, dict[str, Any]] = {
        "regex": {"regex": regex, "max_new_tokens": 40},
        "schema": {"json_schema": json.dumps(PERSON), "max_new_tokens": 90},
        "ebnf": {"ebnf": ebnf, "max_new_tokens": 20},
    }
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda params: server.generate("Answer: ", **params, **hot), bodies.values())
    for kind, answers in zip(bodies, found, strict=True):
        for answer in answers:
            assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": EOS}, answer["text"]
            text = answer["text"]
            if kind == "regex":
                assert re.fullmatch(regex, text), text
            elif kind == "ebnf":
                assert re.fullmatch(r"yes|no\d\d?", text), text
            else:
                person = json.loads(text)
                assert person.keys() == PERSON["properties"].keys()  # type: ignore[attr-defined]
                assert len(person["name"]) <= 10
                assert 1 <= person["age"] <= 120
                assert set(person["tags"]) <= {"a", "b"}
