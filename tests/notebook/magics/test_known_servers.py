"""Which server a cell uses."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.ipython_shell import run
from support.magics import named_servers, story, usage_error
from support.scripted_server import Reply, ScriptedServer

from nbruntime.endpoint import RuntimeEndpoint


def test_without_a_server(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    error = usage_error(shell, "%%sgl_generate\nx", capsys)
    assert "%sgl_launch" in error
    assert "%sgl_connect" in error
    run(shell, "%sgl_servers")
    assert "%sgl_connect URL connects" in capsys.readouterr().out


def test_server_in_a_variable(
    shell: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with RuntimeEndpoint(server.url) as endpoint:
        shell.push({"mine": endpoint, "same": endpoint, "_hidden": RuntimeEndpoint(server.url)})
        run(shell, "%%sgl_generate\nx")  # the only one
        run(shell, "%%sgl_generate --endpoint same\nx")
        assert len(server.to("/generate")) == 2


def test_choose_one_of_several_servers(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer() as other:
        other.on("/generate", story)
        run(connected, f"%sgl_connect {other.url} -o second")
        error = usage_error(connected, "%%sgl_generate\nx", capsys)
        assert "main, scripted-model" in error
        assert "%sgl_use" in error
        run(connected, "%%sgl_generate --endpoint scripted-model\nx")
        run(connected, "%%sgl_generate --endpoint second\nx")
        run(connected, f"%%sgl_generate --endpoint {other.url}\nx")
        assert len(other.to("/generate")) == 3
        run(connected, "%sgl_use second")
        run(connected, "%%sgl_generate\nx")
        assert len(other.to("/generate")) == 4
        run(connected, "%sgl_use")
        assert f"Cells use second ({other.url})." in capsys.readouterr().out
        run(connected, "%%sgl_generate --endpoint main\nx")
        assert len(server.to("/generate")) == 1
        run(connected, "%sgl_servers")
        shown = capsys.readouterr().out
        assert "2 servers" in shown
        assert server.url in shown
        assert other.url in shown


def test_connecting_again_keeps_the_name(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, f"%sgl_connect {server.url}")
    run(connected, f"%sgl_connect {server.url}/")
    assert list(named_servers(connected)) == ["main"]


def test_servers_outlive_a_reload(connected: InteractiveShell, server: ScriptedServer) -> None:
    run(connected, "%reload_ext nbruntime")
    run(connected, "%%sgl_generate\nx")
    assert len(server.to("/generate")) == 1


def test_info_and_flush(
    connected: InteractiveShell, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run(connected, "%sgl_info")
    shown = capsys.readouterr().out
    assert "scripted-model" in shown
    assert "0.5.23" in shown
    run(connected, "%sgl_flush main")
    assert len(server.to("/flush_cache")) == 1
    assert "The KV cache of main is empty." in capsys.readouterr().out


def test_info_card_masks_keys(server: ScriptedServer) -> None:
    from nbruntime.notebook.magics.known_servers import KnownServer
    from nbruntime.notebook.magics.server_cards import info_card

    server.on("/server_info", Reply(json={"api_key": "sk-1234", "tp_size": 2, "version": "1"}))
    with RuntimeEndpoint(server.url) as endpoint:
        card = info_card(KnownServer("main", endpoint), endpoint.get_server_info())
    assert "sk-1234" not in card.html()
    root = ElementTree.fromstring(card.html())
    assert len(root.findall("details")) == 1, "it is a dozen lines high while it is folded"
    assert root.findall("details/details")
    assert "tensor 2" in card.text()
