"""Answers of the embedded server that follow a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.embedded_server import EmbeddedServer
from support.pydantic_fields import FIELDS, UNSAID, model_of
from support.reference import EOS
from support.server_client import generate_body
from support.sglang_grammars import recorded
from support.tokenizers_of_kinds import KINDS

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


@pytest.mark.model
def test_answers_are_valid_for_pydantic(server: EmbeddedServer) -> None:
    """One answer for each type of field; what SGLang refuses is refused with the field's place."""
    models = {name: model_of(name) for name in FIELDS}
    schemas = {name: json.dumps(model.model_json_schema()) for name, model in models.items()}
    taken = [name for name in FIELDS if "error" not in recorded()[f"pydantic: {name}"]]
    for name in FIELDS.keys() - set(taken):
        refusal = server.post("/generate", generate_body("JSON: ", json_schema=schemas[name]))
        assert refusal.status_code == 400
        message = refusal.json()["error"]["message"]
        assert re.search(r"JSON schema at #/properties/x: .*\. Leave it out, or check it", message)
    params = [{"json_schema": schemas[name], "max_new_tokens": 24, "temperature": 0} for name in taken]
    sent = {"text": ["JSON: "] * len(taken), "sampling_params": params}
    finished = 0
    for name, answer in zip(taken, server.post("/generate", sent).json(), strict=True):
        if answer["meta_info"]["finish_reason"]["type"] == "stop":
            finished += 1
            json.loads(answer["text"])
            if name not in UNSAID:
                models[name].model_validate_json(answer["text"])
    assert finished >= 0.7 * len(taken)


@pytest.fixture(scope="module")
def metaspace_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with a small model whose tokenizer writes a space as ``▁``, as Llama 2's and Mistral's do."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("metaspace")
    tokenizer = KINDS["metaspace"]()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(Path(folder) / "tokenizer.json"))
    server = EmbeddedServer("--model-path", str(folder), "--dtype", "float32")
    try:
        yield server.ready()
    finally:
        server.close()


GRAMMARS = {
    "regex": "( the quick fox| a dog){1,2}",
    "ebnf": 'root ::= " the quick"\n  rest\nrest ::= " fox" last\nlast ::= " a" last " dog" | " the dog"',
    "json_schema": json.dumps(
        {"type": "object", "properties": {"name": {"enum": ["the fox", "a dog"]}}, "required": ["name"]}
    ),
}
ANSWERS = {
    "regex": GRAMMARS["regex"],
    "ebnf": r" the quick fox( a)* the dog( dog)*",
    "json_schema": r'\{"name": "(the fox|a dog)"\}',
}


@pytest.mark.parametrize("kind", GRAMMARS)
def test_a_grammar_with_spaces_is_followed_by_any_tokenizer(
    metaspace_server: EmbeddedServer, kind: str
) -> None:
    # The weights are random, so nothing but the grammar makes the answer.
    params: dict[str, Any] = {kind: GRAMMARS[kind], "max_new_tokens": 120}
    fields = {"return_logprob": True, "return_text_in_logprobs": True}
    events = metaspace_server.events("a quick dog", fields=fields, n=3, temperature=1, **params)
    ends = {event["index"]: event for event in events}
    for end in ends.values():
        if end["meta_info"]["finish_reason"]["type"] == "stop":
            assert re.fullmatch(ANSWERS[kind], end["text"])
        texts = [text for *_, text in end["meta_info"]["output_token_logprobs"]]
        assert "".join(texts).replace(" ", "").startswith(end["text"].replace(" ", ""))
    assert any(end["meta_info"]["finish_reason"]["type"] == "stop" for end in ends.values())


def test_stop_strings_with_spaces_are_found_with_any_tokenizer(metaspace_server: EmbeddedServer) -> None:
    params = {"regex": " the quick fox and the dog", "max_new_tokens": 60}
    whole = metaspace_server.generate("a quick dog", **params)
    assert whole["text"] == params["regex"]
    stopped = metaspace_server.generate("a quick dog", stop=" fox", **params)
    assert stopped["text"] == " the quick"
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": " fox"}
