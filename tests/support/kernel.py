"""Real Jupyter kernels, and a front end that a test plays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

WIDGET = "application/vnd.jupyter.widget-view+json"
PATIENCE = 30.0


class Kernel:
    """A Jupyter kernel, to be connected to a server of the test's process."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel(env=os.environ | {"TMPDIR": str(folder)}, cwd=str(folder))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.allow_stdin = False  # as nbclient, not as a console

    def connect(self, url: str) -> None:
        """Load the extension, and connect to a server."""
        self.client.wait_for_ready(timeout=60)
        self.run(f"%load_ext nbruntime\n%sgl_connect {url} --name main")

    def run(self, code: str, *, on_message: Any = None) -> dict[str, Any]:
        """Run a cell: its reply, and as ``messages`` what it showed."""
        messages: list[dict[str, Any]] = []

        def hear(message: dict[str, Any]) -> None:
            messages.append(message)
            if on_message is not None:
                on_message(message)

        reply = self.client.execute_interactive(code, timeout=60, output_hook=hear, stop_on_error=False)
        return {**reply["content"], "messages": messages}

    def value(self, expression: str) -> Any:
        """What an expression of JSON's types is in the kernel."""
        ran = self.run(f"import json; print(json.dumps({expression}))")
        return json.loads("".join(shown_in(ran, "stream", "text")))

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


def shown_in(ran: dict[str, Any], kind: str, field: str) -> list[Any]:
    """One field of all messages of a kind that a cell made."""
    return [message["content"][field] for message in ran["messages"] if message["msg_type"] == kind]


class FrontEnd:
    """Runs cells, and reads what the kernel sends."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def start(self, code: str, cell: str = "cell") -> str:
        """Start a cell, as JupyterLab does, and give the id of the request."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        content["stop_on_error"] = False  # ipykernel 6.17 may refuse the cell after one that failed
        message = self.client.session.msg("execute_request", content, metadata={"cellId": cell})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def until(self, **wanted: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Read until a message of a type comes, of which a predicate may say more; with all before it."""
        kind, holds = wanted["kind"], wanted.get("holds", lambda message: True)
        before: list[dict[str, Any]] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            before.append(message)
            if message["msg_type"] == kind and holds(message):
                return message, before
        raise AssertionError(f"no {kind}: {[each['msg_type'] for each in before]}")

    def run(self, code: str, cell: str = "cell") -> list[dict[str, Any]]:
        """Run a cell to its end, and give what it has sent."""
        request = self.start(code, cell)

        def is_over(message: dict[str, Any]) -> bool:
            mine = message["parent_header"].get("msg_id") == request
            return mine and message["content"]["execution_state"] == "idle"

        return self.until(kind="status", holds=is_over)[1]

    def printed(self, code: str) -> str:
        """Run a cell, and give what it has printed."""
        messages = self.run(code, "printing")
        errors = [each["content"]["evalue"] for each in messages if each["msg_type"] == "error"]
        assert not errors, errors
        return "".join(each["content"]["text"] for each in messages if each["msg_type"] == "stream").strip()

    def tell(self, comm: str, state: dict[str, Any]) -> None:
        """Tell a widget what a front end has changed."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)
