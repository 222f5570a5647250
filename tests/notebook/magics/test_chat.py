"""``%%sgl_chat`` and its conversation."""

from __future__ import annotations

import json

from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import failure, run
from support.magics import TEXT
from support.scripted_server import Reply, ScriptedServer

from nbruntime.chat.conversation import Conversation
from nbruntime.generation import Generation


def test_chat_continues_from_cell_to_cell(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, "%%sgl_chat --system 'Be brief.' --max-new-tokens 9 -o first\nTell me")
    run(connected, "%%sgl_chat --no-stream\nAnd then?")
    assert [message["content"] for message in server.to("/tokenize")[-1].json["messages"]] == [
        "Be brief.", "Tell me", TEXT, "And then?"]  # fmt: skip
    talk = connected.user_ns["conversation"]
    assert isinstance(talk, Conversation)
    assert talk.answers[0] is connected.user_ns["first"]
    assert len(talk) == 2
    assert repr(talk).splitlines() == [
        "Conversation · 2 turns",
        "system: Be brief.", "user: Tell me", f"assistant: {TEXT}", "user: And then?", f"assistant: {TEXT}",
    ]  # fmt: skip
    assert run(connected, "conversation.undo()") == "And then?"
    run(connected, "%%sgl_chat --conversation other\nHello")
    assert (len(talk), len(connected.user_ns["other"])) == (1, 1)
    run(connected, "%%sgl_chat --reset\nFrom the start")
    anew = connected.user_ns["conversation"]
    assert [message["role"] for message in anew.messages] == ["system", "user", "assistant"]


def test_failed_request_leaves_the_conversation_unchanged(
    connected: InteractiveShell, server: ScriptedServer
) -> None:
    run(connected, "%%sgl_chat\nTell me")
    server.on("/generate", Reply(json={"error": {"message": "busy"}}, status=503))
    failure(connected, "%%sgl_chat --reset\nAnd then?")
    failure(connected, "%%sgl_chat --conversation other\nHello")
    assert len(connected.user_ns["conversation"]) == 1
    assert "other" not in connected.user_ns


def test_a_conversation_shows_itself() -> None:
    talk = Conversation("Be <brief>.")
    talk.add("<script>?", Generation("**No** <script>"))
    bundle = talk._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert "<strong>No</strong>" in bundle["text/html"]
    assert bundle["text/plain"].startswith("Conversation · 1 turn\nsystem: Be <brief>.")
    assert json.dumps(talk.messages)
    assert Conversation().undo() is None
