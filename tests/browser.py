"""A page of a folder in headless Chromium, for tests: what it says, and what is asked of the network meanwhile.

A local server gives out the folder, and beside it a page that holds the one to be tested in a frame and works it as
its user would. The same server is Chromium's proxy for everything that is not on this machine.
"""

import contextlib
import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: No requests of the browser's own.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--mute-audio",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip


def find() -> str | None:
    """Chromium's path, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/tested/"):
            self.path = self.path.removeprefix("/tested")
            super().do_GET()
            return
        data = self.server.given.get(self.path, b"")  # of the proxy: nothing
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path.endswith(".html") else "application/octet-stream")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.server.said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def _server(folder: Path, given: dict[str, bytes]) -> Iterator[Any]:
    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        made: Any = server
        made.given, made.asked, made.said = given, [], queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


def run(
    folder: Path, script: str, given: dict[str, bytes], profile: Path, timeout: float = 300
) -> tuple[Any, list[str]]:
    """(what `script` returned, the address of every request), with the page index.html of `folder` in a browser.

    script: the body of an async function with `page`, the window of the page, loaded, and `until`, which waits for a
    function to be true; given: further files by path; profile: an empty folder.
    """
    harness = f"""<!DOCTYPE html><iframe src="/tested/index.html" width="1000" height="1000"></iframe><script>
      const until = async (ask) => {{ while (!ask()) await new Promise((done) => setTimeout(done, 20)); }};
      document.querySelector("iframe").addEventListener("load", async (event) => {{
        const page = event.target.contentWindow;
        let said;
        try {{ said = await (async () => {{ {script} }})(); }} catch (error) {{ said = {{ error: String(error) }}; }}
        fetch("/said", {{ method: "POST", body: JSON.stringify(said) }});
      }});</script>"""
    browser = find()
    assert browser
    with _server(folder, given | {"/harness.html": harness.encode()}) as server:
        here = f"http://127.0.0.1:{server.server_port}"
        where = [f"--user-data-dir={profile}", f"--proxy-server={here}", f"{here}/harness.html"]
        process = subprocess.Popen(
            [browser, *_FLAGS, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            said = server.said.get(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return said, server.asked
