"""What it costs to show a growing answer: bytes and messages to the front end, CPU time of the kernel.

Starts a real kernel and shows the same answer in several ways, while this process counts what comes over
iopub. The tokens come from within the kernel, one every 2 ms, so that every way reads at the same pace and
no server is in the figures. ``append_stdout`` sends all of its text again with each token: it is compared
at fewer tokens, and named with them.

    python benchmarks/stream_view.py [--tokens 4000] [--interval 0.002]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from jupyter_client.manager import start_new_kernel

SET_UP = '''
import itertools, json, time
import ipywidgets
from IPython.display import Pretty, display
from nbruntime.generation import GenerationStream
from nbruntime.display.html import escape
from nbruntime.notebook.magics.presenting import show_stream
from nbruntime.notebook.views.draw_rate import DRAWS_PER_SECOND
from nbruntime.protocol.requests import build_generate_request

PROSE = (
    "The sky looks **blue** because air scatters short waves more than long ones. Lord Rayleigh found "
    "in 1871 that the `intensity` grows with the fourth power of the frequency.\\n\\n"
    "1. Blue light is scattered about *ten times* as much as red light.\\n"
    "2. At sunset the light has a long way through the air, and little blue is left.\\n\\n"
)
CODE = (
    "def scattered(wavelength: float, angle: float) -> float:\\n"
    '    """Give the intensity, without constants."""\\n'
    "    return (1 + cos(angle) ** 2) / wavelength**4  # Rayleigh\\n\\n"
)

def words(kind, tokens):
    if kind == "prose":
        text = PROSE * (tokens // 80 + 1)
    else:
        text = "This is it:\\n\\n```python\\n" + CODE * (tokens // 45 + 1)
    return [text[i : i + 4] for i in range(0, 4 * tokens, 4)]

def events(kind, tokens):
    for number, word in enumerate(words(kind, tokens), 1):
        reason = {"type": "length", "length": tokens} if number == tokens else None
        meta = {"id": "x", "finish_reason": reason, "prompt_tokens": 5, "completion_tokens": number}
        event = {"text": word, "output_ids": [number], "meta_info": meta}
        yield f"data: {json.dumps(event)}\\n\\n".encode()
    yield b"data: [DONE]\\n\\n"

def paced(events, interval):
    due = time.perf_counter()
    for event in events:
        due += interval
        time.sleep(max(0.0, due - time.perf_counter()))
        yield event

def stream(interval):
    request = build_generate_request("Why is the sky blue?", stream=True)
    return GenerationStream(paced(made, interval), request, close=lambda: None, abort=lambda rids: None)

def nothing(interval):
    stream(interval).result()

def stream_view(interval):
    show_stream(stream(interval), view="markdown", draws_per_second=DRAWS_PER_SECOND)  # as the magics do

def append_stdout(interval):
    output = ipywidgets.Output()
    display(output)
    for text in stream(interval):
        output.append_stdout(text)

def html_value(interval):
    widget = ipywidgets.HTML()
    display(widget)
    whole = ""
    for text in stream(interval):
        whole += text
        widget.value = f"<pre>{escape(whole)}</pre>"

def display_id(interval):
    handle = display(Pretty(""), display_id=True)
    whole = ""
    for text in stream(interval):
        whole += text
        handle.update(Pretty(whole))
'''


@dataclass
class Cost:
    """What one way of showing an answer took."""

    messages: int
    megabytes: float
    cpu: float
    """Seconds, reading included."""
    wall: float


def measure(client: Any, way: str, kind: str, tokens: int, interval: float) -> Cost:
    """Show an answer and count what the cell sends until the kernel is idle."""
    client.execute(f"made = list(events({kind!r}, {tokens}))", reply=True, timeout=30)
    wait_until_idle(client)
    code = f"{way}({interval})"
    began = time.perf_counter()
    asked = client.execute(f"_b = time.process_time(); {code}; _c = time.process_time() - _b")
    sent = messages = 0
    while True:
        parts = client.iopub_channel.socket.recv_multipart()
        sent += sum(map(len, parts))
        messages += 1
        _, rest = client.session.feed_identities(parts)
        message = client.session.deserialize(rest, content=True)
        if message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))
        if (
            message["content"].get("execution_state") == "idle"
            and message["parent_header"].get("msg_id") == asked
        ):
            break
    wall = time.perf_counter() - began
    client.get_shell_msg(timeout=30)
    reply = client.execute("", user_expressions={"cpu": "_c"}, reply=True, timeout=30)
    cpu = float(reply["content"]["user_expressions"]["cpu"]["data"]["text/plain"])
    wait_until_idle(client)
    return Cost(messages, sent / 1e6, cpu, wall)


def wait_until_idle(client: Any) -> None:
    """Read the messages of one cell."""
    while client.get_iopub_msg(timeout=30)["content"].get("execution_state") != "idle":
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--interval", type=float, default=0.002)
    arguments = parser.parse_args()
    many, few = arguments.tokens, min(arguments.tokens, 1000)
    runs = [
        ("reading alone", "nothing", "prose", many),
        ("StreamView", "stream_view", "prose", many),
        ("HTML.value", "html_value", "prose", many),
        ("display_id", "display_id", "prose", many),
        ("reading alone", "nothing", "code", many),
        ("StreamView", "stream_view", "code", many),
        ("StreamView", "stream_view", "prose", few),
        ("append_stdout", "append_stdout", "prose", few),
    ]
    manager, client = start_new_kernel()
    try:
        client.execute(SET_UP, reply=True, timeout=60)
        wait_until_idle(client)
        measure(client, "stream_view", "code", 100, 0.001)  # imports, lexers
        costs: dict[tuple[str, str, int], Cost] = {}
        print(f"one token every {arguments.interval * 1000:g} ms; CPU of the kernel, reading included")
        for name, function, kind, tokens in runs:
            cost = measure(client, function, kind, tokens, arguments.interval)
            costs[name, kind, tokens] = cost
            print(
                f"  {name:14} {kind:5} {tokens:5} tokens {cost.messages:6} messages {cost.megabytes:8.2f} MB"
                f" {cost.cpu:6.2f} s CPU = {cost.cpu / cost.wall:4.0%} of a core over {cost.wall:.1f} s",
                flush=True,
            )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

    for name, kind, tokens in costs:
        if name in ("StreamView", "reading alone"):
            continue
        other, same = costs[name, kind, tokens], costs["StreamView", kind, tokens]
        megabytes, messages = other.megabytes / same.megabytes, other.messages / same.messages
        print(
            f"  ratio {name} to StreamView at {tokens} tokens: {megabytes:.0f} times the bytes,"
            f" {messages:.0f} times the messages, {other.cpu / same.cpu:.1f} times the CPU"
        )
    for kind in ("prose", "code"):
        view, bare = costs["StreamView", kind, many], costs["reading alone", kind, many]
        print(
            f"  StreamView without reading, {kind}: {(view.cpu - bare.cpu) / view.wall:.1%} of a core,"
            f" {view.megabytes * 1e6 / many:.0f} bytes per token"
        )


if __name__ == "__main__":
    main()
