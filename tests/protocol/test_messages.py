"""Contents of messages: texts, parts, and the forms that chat templates take."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from nbruntime.errors import ArgumentTypeError
from nbruntime.protocol.messages import for_template, read_messages, refuse_media

TEXTS = {
    "chatml": "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}<|end|>{% endfor %}",
    "added": "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}",
    "trimmed": "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}",
    "json": "{% for m in messages %}<|{{ m.role }}|>{{ m.content | tojson }}<|end|>{% endfor %}",
    "only text": "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}"
    "{% endif %}<|end|>{% endfor %}",
}
LISTS = {
    "loop": "{% for m in messages %}<|{{ m.role }}|>{% for c in m.content %}{{ c.text }}{% endfor %}<|end|>"
    "{% endfor %}",
    "images": "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}",
    "selected": "{% for m in messages %}<|{{ m.role }}|>{{ m.content | selectattr('type', 'equalto', 'text') "
    "| map(attribute='text') | join }}<|end|>{% endfor %}",
}
PARTS = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]


def written(template: str, messages: Any) -> str:
    def render(given: list[dict[str, Any]]) -> str:
        return str(render_jinja_template(conversations=[given], chat_template=template)[0][0])

    return render(for_template(read_messages(messages), render))


@pytest.mark.parametrize("name", TEXTS)
def test_a_template_of_texts_gets_one_text(name: str) -> None:
    user = {"role": "user", "content": PARTS}
    quote = '"' if name == "json" else ""
    assert written(TEXTS[name], [user]) == f"<|user|>{quote}One. Two.{quote}<|end|>"
    assert written(TEXTS[name], [{**user, "content": PARTS[:1]}]) == written(TEXTS[name], "One.")


@pytest.mark.parametrize("name", LISTS)
def test_a_template_of_lists_gets_the_parts(name: str) -> None:
    assert written(LISTS[name], [{"role": "user", "content": PARTS}]) == "<|user|>One.Two.<|end|>"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], ""),
        (None, ""),
        ("", ""),
        (["One.", *PARTS[1:]], "One. Two."),
        ([{"text": "One."}, {"type": "input_text", "text": "Two."}], "One. Two."),
        ([{"type": "text", "text": "One.", "cache_control": {}}], "One."),
    ],
    ids=str,
)
def test_contents(content: Any, text: str) -> None:
    talk = ["Hi", {"role": "assistant", "content": content, "tool_calls": None}, "Bye"]
    assert written(TEXTS["added"], talk) == f"<|user|>Hi<|end|><|assistant|>{text}<|end|><|user|>Bye<|end|>"
    texts = "{% for m in messages %}{{ m.tool_calls is defined }} {% endfor %}"
    assert written(texts, talk) == "False False False "  # an empty field is no field


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "cat.png"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "cat.mp4"}},
        {"type": "image"},
    ],
    ids=lambda part: part["type"],
)
def test_images_and_sounds_are_refused_by_name(part: dict[str, Any]) -> None:
    messages = read_messages(["Hi", {"role": "user", "content": [*PARTS, part]}])
    for refuse in (refuse_media, lambda given: for_template(given, str)):
        with pytest.raises(ArgumentTypeError, match=part["type"]) as refused:
            refuse(messages)
        assert refused.value.where == "messages[1].content[2]"
        assert "image_data" in str(refused.value)


@pytest.mark.parametrize(
    "part", [{"type": "nonsense"}, {"type": "text"}, {"type": "text", "text": 5}, 5, None]
)
def test_a_part_without_text_is_refused(part: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="holds more than text"):
        for_template(read_messages([{"role": "user", "content": [part]}]), str)
