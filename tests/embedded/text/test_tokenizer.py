"""Tokenizers of model folders: special tokens, BOS and end tokens wherever the files name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_tokenizers import IDS, SPECIAL, added_token, tokenizer_folder

from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.errors import ModelNotFoundError

ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def of_config(folder: Path) -> None:
    added = {str(IDS[token]): added_token(token) for token in SPECIAL}
    tokenizer_folder(folder, added=[], added_tokens_decoder=added, tokenizer_class="PreTrainedTokenizerFast")


def of_special_tokens_map(folder: Path) -> None:
    tokenizer_folder(folder, added=[], tokenizer_class="PreTrainedTokenizerFast")
    special = {**ENDS, "additional_special_tokens": ["<|user|>", "<|eom_id|>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def of_added_tokens(folder: Path) -> None:
    tokenizer_folder(folder, added=[], tokenizer_class="PreTrainedTokenizerFast", **ENDS)
    added = {token: IDS[token] for token in ("<|user|>", "<|eom_id|>")}
    (folder / "added_tokens.json").write_text(json.dumps(added))


@pytest.mark.parametrize("write", [tokenizer_folder, of_config, of_special_tokens_map, of_added_tokens])
def test_special_tokens_are_whole_wherever_they_are_named(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    ids = [IDS[token] for token in ("<|user|>", "h", "i", "</s>")]
    assert tokenizer.encode("<|user|>hi</s>") == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|user|>hi</s>"
    assert tokenizer.vocab_size == len(IDS)


LLAMA = {"tokenizer_class": "LlamaTokenizerFast", **ENDS}


@pytest.mark.parametrize(
    ("config", "in_json", "begins"),
    [
        (LLAMA | {"add_bos_token": True}, False, True),
        (LLAMA | {"add_bos_token": None}, False, True),
        (LLAMA, False, True),
        (LLAMA, True, True),
        (LLAMA | {"add_bos_token": False}, False, False),
        (LLAMA | {"add_bos_token": False}, True, True),  # the flag adds, and takes nothing away
        (LLAMA | {"add_eos_token": True}, False, True),  # the end is never added
        (LLAMA | {"tokenizer_class": "GemmaTokenizerFast"}, False, True),
        (LLAMA | {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}, False, False),
        (LLAMA | {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}, True, True),
        ({"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": True} | ENDS, False, False),
    ],
)
def test_bos_begins_a_prompt_by_class_and_flag(
    tmp_path: Path, config: dict[str, Any], in_json: bool, begins: bool
) -> None:
    tokenizer = Tokenizer(tokenizer_folder(tmp_path, bos=in_json, **config))
    hi = [IDS["h"], IDS["i"]]
    assert tokenizer.encode("hi") == [IDS["<s>"]] * begins + hi
    assert tokenizer.encode("hi", add_special_tokens=False) == hi


def test_end_tokens_are_the_tokenizers_and_those_of_a_message(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "a", added=SPECIAL[:4], tokenizer_class="x", eos_token="</s>")
    assert Tokenizer(folder).end_token_ids == {IDS["</s>"]}
    folder = tokenizer_folder(tmp_path / "b", tokenizer_class="x", eos_token="</s>")
    assert Tokenizer(folder).end_token_ids == {IDS["</s>"], IDS["<|eom_id|>"]}
    assert Tokenizer(tokenizer_folder(tmp_path / "c", added=[])).end_token_ids == frozenset()


def test_special_tokens_reach_the_chat_template_from_any_file(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer_folder(tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(ENDS))
    (tmp_path / "chat_template.jinja").write_text(template)
    messages = [{"role": "user", "content": "hi"}]
    assert Tokenizer(tmp_path).render_chat(messages) == "<s>hi</s>"
    assert Tokenizer(tmp_path, "{{ messages[0].content }}").render_chat(messages) == "hi"


@pytest.mark.parametrize(
    "config",
    [{}, {"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "tokenizer_class": "Own", **ENDS}],
)
def test_tokenizer_json_alone_is_enough(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = tokenizer_folder(tmp_path, **config)
    (folder / "config.json").unlink()
    (folder / "code.py").write_text("raise AssertionError('code of a folder ran')")
    assert Tokenizer(folder).encode("hi</s>") == [IDS["h"], IDS["i"], IDS["</s>"]]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer.json": "{}"}, "cannot be read"),
        ({"tokenizer.json": "<html>"}, "cannot be read"),
        ({"tokenizer.model": "not sentencepiece"}, "tokenizer.model cannot be read without the packages"),
        ({"config.json": '{"model_type": "llama"}'}, "cannot be read"),
    ],
)
def test_unreadable_tokenizer_is_refused_by_its_folder(
    tmp_path: Path, files: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbruntime.embedded.text.pretrained._is_installed", lambda package: False)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelNotFoundError, match=said) as raised:
        Tokenizer(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "tokenizer.json" in str(raised.value).splitlines()[1]
