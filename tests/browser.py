"""Headless Chromium over its DevTools protocol, for a test of a page: aiohttp talks to it, nothing else is needed."""

import asyncio
import base64
import contextlib
import functools
import json
import shutil
import subprocess
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a static server of the folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def visit(address, until, profile, *, screenshot=None, seconds=60, phone=False):
    """Open a page, wait until the JavaScript `until` is true -> (its document.body.dataset, errors of the console)."""
    window = "--window-size=390,844" if phone else "--window-size=1000,900"
    command = [CHROMIUM, *FLAGS, *FAKE_CAMERA, window, f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(_visit(address, until, profile, screenshot, seconds))
    finally:
        browser.kill()
        browser.wait()


async def _visit(address, until, profile, screenshot, seconds):
    port_file, began = profile / "DevToolsActivePort", time.monotonic()
    while not (port_file.exists() and port_file.read_text().count("\n")):
        assert time.monotonic() - began < seconds, "Chromium did not start"
        await asyncio.sleep(0.1)
    port, errors = port_file.read_text().split()[0], []
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(tab for tab in await answer.json() if tab["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            count = 0

            async def ask(method, **params):
                nonlocal count
                count += 1
                await socket.send_json({"id": count, "method": method, "params": params})
                while True:
                    told = json.loads((await socket.receive()).data)
                    if told.get("method") == "Runtime.exceptionThrown":
                        errors.append(told["params"]["exceptionDetails"]["text"])
                    elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                        errors.append(told["params"]["entry"]["text"])
                    elif told.get("method") == "Runtime.consoleAPICalled" and told["params"]["type"] == "error":
                        errors.append(str(told["params"]["args"]))
                    elif told.get("id") == count:
                        return told.get("result", {})

            for domain in ("Runtime", "Log", "Page"):
                await ask(f"{domain}.enable")
            await ask("Page.navigate", url=address)
            value = None
            while not value:
                assert time.monotonic() - began < seconds, f"{until} did not come true; {errors}"
                await asyncio.sleep(0.2)
                script = f"({until}) ? JSON.stringify(document.body.dataset) : ''"
                value = (await ask("Runtime.evaluate", expression=script)).get("result", {}).get("value")
            if screenshot:
                shot = await ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
                screenshot.write_bytes(base64.b64decode(shot["data"]))
            return json.loads(value), errors
