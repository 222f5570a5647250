"""Chat templates: SGLang's named ones, and those of the tokenizers."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sglang as sgl
from support.scripted_server import MODEL_INFO, Reply, ScriptedServer, answer
from support.tiny_tokenizers import IDS, tokenizer_folder

from nbruntime.chat.named_templates import TEMPLATES, get_chat_template, guess_chat_template
from nbruntime.chat.tokenizer_template import TokenizerTemplate
from nbruntime.embedded.text.tokenizer import Tokenizer
from nbruntime.endpoint import RuntimeEndpoint, server_capabilities
from nbruntime.errors import ArgumentValueError


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def test_named_templates_are_those_of_sglang() -> None:
    from sglang.lang.chat_template import chat_template_registry, get_chat_template_by_model_path

    history = [{"role": "system", "content": "s"}]
    compared = 0
    for name, theirs in chat_template_registry.items():
        if name not in TEMPLATES:
            assert get_chat_template(name) is theirs  # what SGLang knows besides is not lost
            continue
        ours = TEMPLATES[name]
        compared += 1
        assert ours.default_system_prompt == theirs.default_system_prompt
        assert tuple(ours.stop_str) == tuple(theirs.stop_str)
        if name != "gemma-it":  # changed since 0.5.2
            assert ours.image_token == theirs.image_token
        for role in ("system", "user", "assistant", "tool"):
            for messages in ([], history, [*history, {"role": "user", "content": "u"}]):
                assert ours.get_prefix_and_suffix(role, messages) == theirs.get_prefix_and_suffix(
                    role, messages
                )
    print(f"{compared} templates compared")
    assert compared >= 15
    for model in (
        "meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct",
        "mistralai/Mistral-7B-Instruct-v0.3", "google/gemma-3-4b-it", "lmsys/vicuna-7b-v1.5",
        "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3-Base", "ibm-granite/granite-3.0-8b-instruct",
        "gpt2", "Qwen/Qwen2-VL-7B-Instruct",
    ):  # fmt: skip
        assert guess_chat_template(model).name == get_chat_template_by_model_path(model).name


def test_unknown_template_name_suggests_a_similar_one(server: ScriptedServer) -> None:
    with pytest.raises(ArgumentValueError, match="Did you mean 'llama-3-instruct'"):
        RuntimeEndpoint(server.url, chat_template_name="llama3-instruct")
    assert server.asked == []


CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nYou are SmolLM.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}"
    "{% set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first %}{{ sys }}{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }} </s>"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ bos_token }}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL_3 = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{% set rest = messages if system is none else messages[1:] %}"
    "{% set last = (rest | selectattr('role', 'equalto', 'user') | list)[-1] %}{{ bos_token }}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST] "
    "{% if m == last and system is not none %}{{ system }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def save_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def save(template: str | None, *, adds_bos: bool, special: list[str], eos: str) -> str:
        folder = tmp_path_factory.mktemp("tokenizer")
        backend = Tokenizer(
            models.WordLevel({"<unk>": 0, "<s>": 1, **{s: n + 2 for n, s in enumerate(special)}}, "<unk>")
        )
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        if adds_bos:
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 1)]
            )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<s>",
            eos_token=eos,
            unk_token="<unk>",
            additional_special_tokens=special,
        )
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


CONVERSATIONS = [
    ["user"],
    ["user", "assistant"],
    ["user", "assistant", "user", "assistant"],
    ["system", "user", "assistant", "user"],
]


def put_together(template: Any, roles: list[str]) -> str:
    """What the frontend language makes of a conversation."""
    text, history = "", []
    for n, role in enumerate(roles):
        prefix, suffix = template.get_prefix_and_suffix(role, history)
        text += prefix + f"word{n}" + suffix
        history.append({"role": role, "content": f"word{n}"})
    return text


@pytest.mark.parametrize(
    ("template", "eos", "stop", "adds_bos", "system"),
    [
        (CHATML, "<|im_end|>", ("<|im_end|>",), False, "You are SmolLM."),
        (LLAMA_3, "<|eot_id|>", ("<|eot_id|>",), True, None),
        (LLAMA_3, "<|end_of_text|>", ("<|eot_id|>", "<|end_of_text|>"), False, None),
        (LLAMA_2, "</s>", ("</s>",), True, None),
        (GEMMA, "<end_of_turn>", ("<end_of_turn>",), True, None),
        (PHI_3, "<|endoftext|>", ("<|end|>", "<|endoftext|>"), False, None),
        (MISTRAL_3, "</s>", ("</s>",), True, None),
        (THINKING, "<|im_end|>", ("<|im_end|>",), False, None),
    ],
    ids=["chatml", "llama-3", "llama-3-no-bos", "llama-2", "gemma", "phi-3", "mistral-3", "thinking"],
)
def test_a_tokenizers_own_template(
    save_tokenizer: Any, template: str, eos: str, stop: tuple[str, ...], adds_bos: bool, system: str | None
) -> None:
    path = save_tokenizer(template, adds_bos=adds_bos, special=list(stop), eos=eos)
    own = TokenizerTemplate.load(path)
    assert own is not None
    assert own.default_system_prompt == system
    assert own.stop_str == stop
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    for roles in CONVERSATIONS:
        if roles[0] == "system" and template is GEMMA:
            assert own.get_prefix_and_suffix("system", []) == ("", "")
            continue
        messages = [{"role": role, "content": f"word{n}"} for n, role in enumerate(roles)]
        if roles[0] != "system" and system:
            # The frontend language writes the default system message itself.
            messages.insert(0, {"role": "system", "content": system})
        given = messages
        if template is MISTRAL_3 and roles[0] == "system":
            # It moves the system message to whatever the user says last; what is written stays where it is.
            first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
            given = [first, *messages[2:]]
        whole = tokenizer.apply_chat_template(given, tokenize=False)
        if template is PHI_3:
            whole = whole.removesuffix(eos)  # the end of a conversation, not of a message
        if messages[-1]["role"] == "user":
            begun = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
            assert begun == whole + own.get_prefix_and_suffix("assistant", messages)[0]
        text = put_together(own, [m["role"] for m in messages])
        for n, message in enumerate(messages):
            text = text.replace(f"word{n}", message["content"], 1)
        if template is THINKING:
            whole = whole.replace(
                "<think>\n\n</think>\n\n", ""
            )  # an answer begins as one begins to be written
        if template in (LLAMA_2, MISTRAL_3):
            whole = whole.replace("[/INST] ", "[/INST]")  # the space is the model's to write
        assert ("<s>" if adds_bos else "") + text == whole


@pytest.mark.parametrize("flag", [True, False, None])
def test_the_server_writes_bos_if_the_class_and_flag_say_so(tmp_path: Path, flag: bool | None) -> None:
    path = tokenizer_folder(
        tmp_path,
        tokenizer_class="LlamaTokenizerFast",
        bos_token="<s>",
        eos_token="</s>",
        add_bos_token=flag,
        chat_template=LLAMA_3,
    )
    template = TokenizerTemplate.load(str(path))
    assert template is not None
    text = template.render_chat([{"role": "user", "content": "hi"}])
    assert text.startswith("<s>") is (flag is False)
    assert Tokenizer(path).encode(text).count(IDS["<s>"]) == 1


def test_named_template_before_tokenizer_before_guess(server: ScriptedServer, save_tokenizer: Any) -> None:
    path = save_tokenizer(CHATML, adds_bos=False, special=["<|im_end|>"], eos="<|im_end|>")
    info = {**MODEL_INFO, "model_path": "some/llama-3-instruct", "tokenizer_path": path}
    server.on("/model_info", Reply(json=info))
    with RuntimeEndpoint(server.url, chat_template_name="gemma-it") as endpoint:
        assert endpoint.chat_template.name == "gemma-it"
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.chat_template.name == path
        assert endpoint.get_chat_template() is endpoint.chat_template
    without = save_tokenizer(None, adds_bos=False, special=[], eos="<s>")
    server.on("/model_info", Reply(json={**info, "tokenizer_path": without}))
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.chat_template.name == "llama-3-instruct"
    server.on("/model_info", Reply(json={**info, "tokenizer_path": "/nowhere/to/be/found"}))
    with (
        RuntimeEndpoint(server.url) as endpoint,
        pytest.warns(UserWarning, match=r"not on this machine.*'llama-3-instruct', guessed") as caught,
    ):
        assert endpoint.chat_template.name == "llama-3-instruct"
    assert caught[0].filename == __file__


@pytest.mark.parametrize("form", ["name", "template"])  # up to SGLang 0.4.3 they return templates
def test_functions_registered_with_sglang_are_asked_before_a_guess(
    server: ScriptedServer, save_tokenizer: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sglang.lang import chat_template as sglang_templates

    monkeypatch.setattr(
        sglang_templates, "chat_template_registry", {**sglang_templates.chat_template_registry}
    )
    monkeypatch.setattr(
        sglang_templates, "matching_function_registry", [*sglang_templates.matching_function_registry]
    )
    own = sglang_templates.ChatTemplate("own", None, {"user": ("<u>", "</u>")})
    sglang_templates.register_chat_template(own)
    asked: list[str] = []

    @sglang_templates.register_chat_template_matching_function
    def match(model_path: str) -> Any:
        asked.append(model_path)
        return ("own" if form == "name" else own) if "smollm" in model_path else None

    without = save_tokenizer(None, adds_bos=False, special=[], eos="<s>")
    info = {**MODEL_INFO, "tokenizer_path": without}
    for model, found in (("some/smollm-instruct", "own"), ("another", "default")):
        server.on("/model_info", Reply(json={**info, "model_path": model}))
        with RuntimeEndpoint(server.url) as endpoint:
            assert endpoint.chat_template.name == found
    assert asked == ["some/smollm-instruct", "another"]
    path = save_tokenizer(CHATML, adds_bos=False, special=["<|im_end|>"], eos="<|im_end|>")
    server.on("/model_info", Reply(json={**info, "model_path": "some/smollm", "tokenizer_path": path}))
    with RuntimeEndpoint(server.url) as endpoint:
        assert endpoint.chat_template.name == path


def test_code_of_a_tokenizer_is_not_run(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"AutoTokenizer": ["code.Own", None], "AutoConfig": "code.Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": kind, "tokenizer_class": "Own"}))
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": kind, "model_type": "own"}))
    (tmp_path / "code.py").write_text("raise SystemExit('the code was run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks whether to run the code"))
    server.on("/model_info", Reply(json={**MODEL_INFO, "tokenizer_path": str(tmp_path)}))
    with RuntimeEndpoint(server.url) as endpoint, pytest.warns(UserWarning, match="cannot be read here"):
        assert endpoint.chat_template.name == "default"


def test_unreachable_hub_is_asked_once() -> None:
    code = (
        "from nbruntime.chat.tokenizer import load_tokenizer\n"
        "try: load_tokenizer('nobody/nothing')\n"
        "except OSError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ran.stdout.startswith("it is not in the cache, and the hub cannot provide it: "), ran
    assert "Retrying" not in ran.stderr


def test_endpoints_do_not_wait_for_each_others_templates(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chatml = get_chat_template("chatml")
    with RuntimeEndpoint(server.url) as slow, RuntimeEndpoint(server.url) as quick:
        found: list[Any] = []

        def find(info: Any) -> Any:
            if not found:
                found.append("slow")
                other = threading.Thread(target=lambda: found.append(quick.chat_template), daemon=True)
                other.start()
                other.join(20)
            return chatml

        monkeypatch.setattr(server_capabilities, "find_chat_template", find)
        assert slow.chat_template is chatml
        assert found == ["slow", chatml]
        again = pickle.loads(pickle.dumps(slow))
        assert again.chat_template is chatml
        again.close()


def test_the_chatbot_with_the_models_own_template(server: ScriptedServer, save_tokenizer: Any) -> None:
    path = save_tokenizer(CHATML, adds_bos=False, special=["<|im_end|>"], eos="<|im_end|>")
    server.on("/model_info", Reply(json={**MODEL_INFO, "tokenizer_path": path}))
    server.on("/generate", Reply(json=answer("Hello.")))

    @sgl.function
    def hello(s: Any) -> None:
        s += sgl.user("Hi")
        s += sgl.assistant(sgl.gen("answer"))

    with RuntimeEndpoint(server.url) as endpoint:
        assert hello.run(backend=endpoint)["answer"] == "Hello."
    assert server.to("/generate")[0].json["text"] == (
        "<|im_start|>system\nYou are SmolLM.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
