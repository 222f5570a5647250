"""Runtime in real Jupyter kernels: what must not hurt the server, and what must end it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_engine import SERVER, alive, await_gone, await_true, read_pids
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

pytestmark = pytest.mark.kernel

PATHS = [str(SERVER.parent), str(SERVER.parents[1])]

LAUNCH = """
import sys
sys.path[:0] = {paths!r}
import fake_engine; fake_engine.install()
from nbruntime.runtime import Runtime
runtime = Runtime(engine="fake", port=0, children=1, pids={pids!r})
"""

BUSY = "import time\nprint('busy', flush=True)\nwhile True: time.sleep(0.05)"


class Kernel:
    """A kernel with a Runtime in it."""

    def __init__(self, pids: Path) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel(env=os.environ | {"JPY_PARENT_PID": ""})
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run(LAUNCH.format(paths=PATHS, pids=str(pids)))
        self.server = read_pids(pids)
        self.supervisor = int(self.run("print(runtime._server.supervisor_pid)"))

    @property
    def tree(self) -> list[int]:
        return [*self.server, self.supervisor]

    @property
    def pid(self) -> int:
        pid: int = self.manager.provisioner.pid
        return pid

    def run(self, code: str) -> str:
        """Run a cell and return what it printed; an error of the cell is an error of the test."""
        printed: list[str] = []

        def hear(message: dict) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, timeout=60, output_hook=hear)
        assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
        return "".join(printed)

    def start(self, code: str) -> None:
        """Start a cell and wait until it has printed something."""
        # Else the kernel would refuse what is asked for right after an interrupt.
        request = self.client.execute(code, stop_on_error=False)
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "stream" and message["parent_header"]["msg_id"] == request:
                return

    def close(self) -> None:
        self.client.stop_channels()
        with contextlib.suppress(RuntimeError):
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    started = Kernel(tmp_path / "pids")
    yield started
    started.close()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_interrupt_leaves_the_server_alone(busy: bool, kernel: Kernel) -> None:
    for _ in range(2):
        if busy:
            kernel.start(BUSY)
        kernel.manager.interrupt_kernel()
        if busy:
            reply = kernel.client.get_shell_msg(timeout=30)
            assert reply["content"]["ename"] == "KeyboardInterrupt"
    # Two of the supervisor's looks at its owner, and the server still answers.
    text = kernel.run("import json, time; time.sleep(0.6); print(json.loads(runtime.generate('Hi'))['text'])")
    assert text == "Hello world, grüße!\n"
    assert all(alive(pid) for pid in kernel.tree)


def test_cell_with_a_loop_that_runs(kernel: Kernel) -> None:
    """Synchronous and asynchronous calls, where the kernel's own event loop is running."""
    code = """
print([delta async for delta in runtime.async_generate("Hi")])
print((await runtime.get_server_info())["tp_size"], runtime.endpoint.get_model_name())
"""
    assert kernel.run(code) == "['Hel', 'lo ', 'wor', 'ld, ', 'grüße', '!']\n1 fake/model\n"
    assert re.fullmatch(r"Runtime fake/model · ready · pid \d+\n.*\n.*\n", kernel.run("print(repr(runtime))"))


def _cell(code: str) -> Callable[[Kernel], None]:
    def end(kernel: Kernel) -> None:
        kernel.client.execute(code)

    return end


def _signal(number: signal.Signals) -> Callable[[Kernel], None]:
    def end(kernel: Kernel) -> None:
        os.kill(kernel.pid, number)

    return end


def _shutdown_busy(kernel: Kernel) -> None:
    kernel.start(BUSY)
    kernel.manager.shutdown_kernel(now=False)


FORK = """
import os
child = os.fork()
if child == 0:
    import time
    time.sleep(600)
print(child, flush=True)
"""


def _kill_with_live_fork(kernel: Kernel) -> None:
    child = int(kernel.run(FORK))
    try:
        os.kill(kernel.pid, signal.SIGKILL)
        await_gone(kernel.tree, 15)
    finally:
        os.kill(child, signal.SIGKILL)


def _restart_with_uncollected_child(kernel: Kernel) -> None:
    # ipykernel's clean-up waits for it in vain, and no atexit runs.
    kernel.run("import subprocess, sys; left = subprocess.Popen([sys.executable, '-c', ''])")
    kernel.manager.restart_kernel(now=False)


def _kill_supervisor(kernel: Kernel) -> None:
    os.kill(kernel.supervisor, signal.SIGKILL)
    assert kernel.run("print(runtime._server.wait(10), runtime.phase)") == "-9 died\n"


ENDS: dict[str, Callable[[Kernel], None]] = {
    "del": _cell("del runtime"),
    "assigned anew": _cell("runtime = None"),
    "shutdown()": _cell("runtime.shutdown()"),
    "restart": lambda kernel: kernel.manager.restart_kernel(now=False),
    "restart now": lambda kernel: kernel.manager.restart_kernel(now=True),
    "restart with an uncollected child": _restart_with_uncollected_child,
    "shutdown idle": lambda kernel: kernel.manager.shutdown_kernel(now=False),
    "shutdown busy": _shutdown_busy,
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGHUP": _signal(signal.SIGHUP),
    "SIGKILL with a live fork": _kill_with_live_fork,
    "segfault": _cell("import ctypes; ctypes.string_at(0)"),
    "os._exit": _cell("import os; os._exit(1)"),
    "exit()": _cell("exit()"),
    "supervisor killed": _kill_supervisor,
}


@pytest.mark.parametrize("end", ENDS)
def test_tree_goes_with(end: str, kernel: Kernel) -> None:
    assert all(alive(pid) for pid in kernel.tree)
    began = time.monotonic()
    ENDS[end](kernel)
    took = await_gone(kernel.tree, 15)
    print(f"{end}: {time.monotonic() - began:.2f} s, {took:.2f} s of them after the call")


def test_interrupt_during_launch_leaves_nothing(kernel: Kernel, tmp_path: Path) -> None:
    gate, pids = tmp_path / "gate", tmp_path / "second"
    os.mkfifo(gate)
    kernel.client.execute(f"other = Runtime(engine='fake', port=0, gate={str(gate)!r}, pids={str(pids)!r})")
    [loading] = read_pids(pids)
    kernel.manager.interrupt_kernel()
    await_gone([loading], 15)
    assert all(alive(pid) for pid in kernel.tree), "the first server has nothing to do with it"
    reply = kernel.client.get_shell_msg(timeout=30)
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_thread_that_launched_may_end(kernel: Kernel, tmp_path: Path) -> None:
    pids = tmp_path / "second"
    kernel.run(
        f"""
import threading
others = []
launch = lambda: others.append(Runtime(engine="fake", port=0, pids={str(pids)!r}))
thread = threading.Thread(target=launch); thread.start(); thread.join()
time = __import__("time"); time.sleep(0.6)
print(others[0].generate("Hi"))
"""
    )
    assert all(alive(pid) for pid in read_pids(pids))
    os.kill(kernel.pid, signal.SIGKILL)
    await_gone(read_pids(pids), 15)
    await_true(lambda: not any(alive(pid) for pid in kernel.tree))
