"""What web pages can do to an embedded server without a key, in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page
from support.embedded_app import Answers, serving

from nbruntime.embedded.arguments import ServerArguments

pytestmark = pytest.mark.browser

ATTACK = """
<title>An interesting page</title>
<img src="http://127.0.0.1:PORT/flush_cache?img">
<img src="http://0.0.0.0:PORT/flush_cache?any">
<img src="http://localhost:PORT/flush_cache?silent" referrerpolicy="no-referrer">
<script src="http://127.0.0.1:PORT/start_profile?script"></script>
<iframe src="http://localhost:PORT/start_profile?frame"></iframe>
<iframe name="target"></iframe>
<form action="http://127.0.0.1:PORT/start_profile?form" method="post" enctype="text/plain" target="target">
  <input name='{"num_steps": 1, "x' value='y": 1}'>
</form>
<script>
  document.forms[0].submit()
  fetch("http://localhost:PORT/flush_cache?fetch", {mode: "no-cors"})
  fetch("http://127.0.0.1:PORT/abort_request?post", {mode: "no-cors", method: "POST", body: "{}"})
  fetch("http://127.0.0.1:PORT/v1/models?cors").catch(() => 0)
  navigator.sendBeacon("http://127.0.0.1:PORT/flush_cache?beacon", "")
</script>
"""


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


@pytest.fixture(scope="module")
def port(answers: Answers) -> Iterator[int]:
    with serving(ServerArguments(), answers) as number:
        yield number


@contextmanager
def pages(html: str) -> Iterator[int]:
    """Serve the same page under every name of this machine; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page()
    yield opened
    opened.close()


def test_a_foreign_page_reaches_nothing(page: Page, port: int, answers: Answers) -> None:
    answers.clear()
    with pages(ATTACK.replace("PORT", str(port))) as elsewhere:
        page.goto(f"http://interesting.test:{elsewhere}/")
        for _ in range(600):
            if len(answers) >= ATTACK.count("PORT"):
                break
            page.wait_for_timeout(50)
    assert len(answers) >= ATTACK.count("PORT")
    assert set(answers.values()) == {403}, answers


def test_a_name_that_points_here_is_not_this_machine(page: Page, port: int) -> None:
    answer = page.goto(f"http://rebound.test:{port}/flush_cache")
    assert answer is not None
    assert answer.status == 403
    assert "is not this machine" in page.content()


def test_pages_of_this_machine_and_typed_addresses(page: Page, port: int) -> None:
    for host in ("localhost", "127.0.0.1"):
        typed = page.goto(f"http://{host}:{port}/")
        assert typed is not None
        assert typed.status == 200
    link = f'<a href="http://127.0.0.1:{port}/">server</a>'
    with pages(link) as notebook:
        page.goto(f"http://localhost:{notebook}/lab")
        said = page.evaluate(
            """async (url) => {
                const answer = await fetch(url, {method: "POST", body: "{}",
                                                 headers: {"Content-Type": "application/json"}})
                return [answer.status, (await answer.json()).message]
            }""",
            f"http://127.0.0.1:{port}/generate",
        )
        assert said == [503, "The server is starting (starting); try again when /health answers 200."]
        with page.expect_response(f"http://127.0.0.1:{port}/") as followed:
            page.get_by_text("server").click()
        assert followed.value.status == 200
