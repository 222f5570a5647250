"""What a server says at length is short to look at, from both clients."""

from __future__ import annotations

import pytest
from support import sglang_records
from support.clients import KINDS, connected
from support.html_checks import checked
from support.scripted_server import Reply, ScriptedServer


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_long_is_a_card(kind: str) -> None:
    long = list(range(2000))
    with ScriptedServer() as server, connected(kind, server.url) as client:
        server.on("/server_info", Reply(json=sglang_records.load("get_server_info").json))
        server.on("/encode", Reply(json={"embedding": [0.125] * 2000, "meta_info": {}}))
        server.on("/tokenize", Reply(json={"tokens": [long, long], "count": [2000, 2000]}))
        info, vector = client.call("get_server_info"), client.call("embed", "Why?")
        tokens = client.call("tokenize", ["Why?", "Why?"])
        assert isinstance(info, dict)
        assert vector == [0.125] * 2000
        assert tokens == [long, long]
        for each in (info, client.client.model_info, vector, *tokens):
            bundle = each._repr_mimebundle_()
            assert len(bundle["text/plain"]) < 400
            assert len(bundle["text/plain"].splitlines()) <= 3
            checked(bundle)
            assert repr(each) == repr(dict(each) if isinstance(each, dict) else list(each)), (
                "print shows it all"
            )
