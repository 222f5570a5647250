"""A server for tests of launching: standard library only, speaks just enough of SGLang's protocol.

It can fail, hang, ignore SIGTERM, and start children in sessions of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORDS = ["Hel", "lo ", "wor", "ld, ", "grüße", "!"]
SLEEP = "import time; time.sleep(600)"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--say", action="append", default=[], help="print this line while loading")
    parser.add_argument("--model", default="fake/model", help="what it calls its model")
    parser.add_argument("--gate", help="wait while loading until this fifo is written to")
    parser.add_argument("--fail", help="write this line and exit with code 3 while loading")
    parser.add_argument("--fail-asked", help="the same, when it is asked for its model")
    parser.add_argument("--kill", type=int, help="die of this signal while loading")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--children", type=int, default=0, help="children in sessions of their own")
    parser.add_argument("--bare-children", type=int, default=0, help="children without an environment")
    parser.add_argument("--pids", help="write the pids of this server and its children to this file")
    parser.add_argument("--spam", type=int, default=0, help="print this many lines while loading")
    parser.add_argument("--leave-child", action="store_true", help="exit at once, but leave a child behind")
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fail_asked: str | None = None
    model = ""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, body: object, status: int = 200) -> None:
        data = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def may(self) -> bool:
        key = os.environ.get("NBRUNTIME_API_KEY")
        if not key or self.path.startswith(("/health", "/ready")):
            return True
        if self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self.answer({"error": "Unauthorized"}, 401)
        return False

    def do_GET(self) -> None:
        if not self.may():
            return
        path = self.path.partition("?")[0]
        if path in ("/health", "/ready", "/health_generate", "/flush_cache"):
            self.answer(None)
        elif path in ("/model_info", "/get_model_info"):
            if self.fail_asked:
                print(self.fail_asked, flush=True)
                os._exit(3)
            info = {"model_path": self.model, "tokenizer_path": self.model, "is_generation": True}
            self.answer({**info, "preferred_sampling_params": None})
        elif path in ("/server_info", "/get_server_info"):
            self.answer({"model_path": self.model, "tp_size": 1, "version": "0.5.23", "argv": sys.argv[1:]})
        else:
            self.answer({"object": "error", "message": "Not Found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.may():
            return
        request = json.loads(body) if body else {}
        if request.get("text") == "take your time":
            time.sleep(3)
        if self.path == "/generate":
            self.generate(request)
        elif self.path == "/encode":
            self.answer(
                {"embedding": [0.25, -0.5], "meta_info": {"id": "e", "prompt_tokens": 2}, "asked": request}
            )
        elif self.path in ("/flush_cache", "/abort_request", "/start_profile", "/stop_profile"):
            self.answer({"asked": request})
        else:
            self.answer({"object": "error", "message": "Not Found"}, 404)

    def generate(self, request: dict) -> None:
        prompts = request.get("text")
        if prompts == "":
            self.answer({"error": {"message": "The text is empty."}}, 400)
        elif request.get("stream"):
            self.stream(request)
        elif isinstance(prompts, list):
            self.answer([self.whole(request, index) for index in range(len(prompts))])
        else:
            self.answer(self.whole(request, 0))

    def whole(self, request: dict, index: int) -> dict:
        return {**self.state(request, len(WORDS), index), "asked": request}

    def state(self, request: dict, count: int, index: int = 0) -> dict:
        reason = {"type": "length", "length": count} if count == len(WORDS) else None
        rid = request.get("rid") or "r"
        return {
            "text": "".join(WORDS[:count]),
            "output_ids": list(range(count)),
            "meta_info": {
                "id": rid[index] if isinstance(rid, list) else rid,
                "finish_reason": reason,
                "prompt_tokens": 3,
                "completion_tokens": count,
                "cached_tokens": 0,
                "weight_version": "default",
                "e2e_latency": 0.01,
            },
        }

    def stream(self, request: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = [json.dumps(self.state(request, n + 1), ensure_ascii=False) for n in range(len(WORDS))]
        data = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
        for start in range(0, len(data), 37):  # cut anywhere
            piece = data[start : start + 37]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


def main() -> None:
    args = parse()
    if args.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEP], start_new_session=True)
        for _ in range(args.children + args.leave_child)
    ]
    children += [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEP], env={}) for _ in range(args.bare_children)
    ]
    if args.pids:
        whole = Path(args.pids).with_suffix(".part")
        whole.write_text("\n".join(str(pid) for pid in [os.getpid(), *(child.pid for child in children)]))
        whole.rename(args.pids)
    if args.leave_child:
        os._exit(0)
    print("phase: loading weights", flush=True)
    for line in args.say:
        print(line.replace("{key}", os.environ.get("NBRUNTIME_API_KEY", "")), flush=True)
    for number in range(args.spam):
        print(f"line {number} " + "x" * 90)
    if args.gate:
        with open(args.gate) as gate:
            gate.read()
    if args.fail:
        print(args.fail, flush=True)
        sys.exit(3)
    if args.kill:
        os.kill(os.getpid(), args.kill)
    Handler.fail_asked, Handler.model = args.fail_asked, args.model
    server = ThreadingHTTPServer((args.host, args.port), Handler, bind_and_activate=args.fd is None)
    server.daemon_threads = True
    if args.fd is not None:
        server.socket.close()
        server.socket = socket.socket(fileno=args.fd)
    print(f"phase: ready\nready at {time.time():.6f}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
