"""Headless Chromium, driven over its DevTools protocol (no driver, no further package).

Source: https://chromedevtools.github.io/devtools-protocol/. One browser, one tab; what the page
writes to the console and asks of the network is kept.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

PATIENCE_S = 30.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root in a container there is none to be had
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)


def find_chromium():
    """The program, or a skip; where services are required, a failure."""
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        why = "chromium is not installed. Run .ci/packages."
        (pytest.fail if os.environ.get("STILLHOUSE_REQUIRE_SERVICES") else pytest.skip)(why)
    return found


class Tab:
    """The one tab: commands go out, events come in while a command or a wait is under way."""

    def __init__(self, runner, socket):
        self._runner, self._socket, self._last = runner, socket, 0
        self.complaints = []
        """Errors and warnings of the console, exceptions, violations of the policy."""
        self.requested = []
        """URLs that the page asked for."""

    def send(self, method, **params):
        """The result of a command."""
        return self._runner.run(self._send(method, params))

    async def _send(self, method, params):
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = json.loads((await self._socket.receive()).data)
                if message.get("id") == self._last:
                    assert "error" not in message, message
                    return message["result"]
                self._note(message)

    def _note(self, event):
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(params["exceptionDetails"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(params["args"])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"])
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])

    def look(self, expression):
        """The value of an expression in the page; promises are waited for."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression):
        """The value of an expression as soon as it is true."""
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            if found := self.look(expression):
                return found
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}; complaints: {self.complaints}")

    def open(self, url):
        """A page, fresh, and loaded."""
        self.complaints.clear()
        self.requested.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def type(self, selector, text):
        """Keys into a field, which gets the focus."""
        self.look(f"document.querySelector({selector!r}).focus()")
        self.send("Input.insertText", text=text)

    def press(self, key, code, modifiers=0):
        """One key down and up; `code` is Windows' number of it, modifiers 2 is Ctrl."""
        known = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="rawKeyDown", **known)
        self.send("Input.dispatchKeyEvent", type="keyUp", **known)

    def resize(self, width, height, scheme="light"):
        """The window's size [CSS pixels] and its colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=wanted)

    def photograph(self, path):
        """The whole page as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browsing(folder):
    """A tab of a fresh browser, whose profile lies in `folder`."""
    with (folder / "chromium.log").open("wb") as log, asyncio.Runner() as runner:
        command = [find_chromium(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            port = _port(folder, process)
            session = runner.run(_session())
            try:
                yield runner.run(_tab(runner, session, port))
            finally:
                runner.run(session.close())
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _port(folder, process):
    ends = time.monotonic() + PATIENCE_S
    told = folder / "DevToolsActivePort"
    while time.monotonic() < ends:
        if told.is_file() and (lines := told.read_text().split()):
            return int(lines[0])
        assert process.poll() is None, (folder / "chromium.log").read_text()
        time.sleep(0.02)
    raise AssertionError((folder / "chromium.log").read_text())


async def _session():
    return aiohttp.ClientSession()


async def _tab(runner, session, port):
    async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
        targets = await response.json()
    address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
    tab = Tab(runner, await session.ws_connect(address, max_msg_size=0))
    for domain in ("Page", "Runtime", "Log", "Network"):
        await tab._send(f"{domain}.enable", {})
    return tab
