"""A headless Chromium that opens pages and makes pictures of them, by Chrome's DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
WAIT_SECONDS = 120
_UNTIL = """new Promise((yes, no) => {
  const end = Date.now() + 1000 * %d;
  const look = () => (%s) ? yes(true) : Date.now() < end ? setTimeout(look, 100) : no(document.body.innerText);
  look();
})"""


class Browser:
    """One page of a browser."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO, width: int) -> None:
        self._commands, self._answers, self._numbers = commands, answers, count(1)
        self._session: dict[str, str] = {}
        page = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]}
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def open(self, address: str, until: str) -> None:
        """Opens a page, and waits until an expression of JavaScript holds there.

        Raises:
            RuntimeError: it does not within `WAIT_SECONDS`; with the text of the page.
        """
        self._ask("Page.navigate", url=address)
        self.wait(f"location.href !== 'about:blank' && document.body && ({until})")

    def wait(self, until: str) -> None:
        """Waits until an expression of JavaScript holds. Raises as `open` does."""
        self.run(_UNTIL % (WAIT_SECONDS, until))

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript on the page."""
        found = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def picture(self, height: float) -> bytes:
        """A PNG of the upper part of the page, so many pixels high."""
        width = self.run("document.documentElement.clientWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self._ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def _ask(self, method: str, **params: object) -> Mapping[str, Any]:
        number = next(self._numbers)
        asked = {"id": number, "method": method, "params": params, **self._session}
        self._commands.write(json.dumps(asked).encode() + b"\0")
        self._commands.flush()
        for answer in self._messages():
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise RuntimeError(f"{method}: the browser has ended")

    def _messages(self) -> Iterator[Mapping[str, Any]]:
        text = bytearray()
        while byte := self._answers.read(1):
            if byte != b"\0":
                text += byte
                continue
            yield json.loads(text)
            text.clear()


@contextmanager
def browser(width: int) -> Iterator[Browser]:
    """A browser whose window is so many pixels wide; it ends with the block."""
    if PROGRAM is None:
        raise RuntimeError("no chromium on this machine: install one, such as: apt-get install chromium")
    ours, theirs = os.pipe(), os.pipe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3, and writes answers to descriptor 4.
        words = ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "bash", PROGRAM, *FLAGS]
        running = subprocess.Popen(
            [*words, f"--user-data-dir={profile}"], pass_fds=(ours[0], theirs[1]), stderr=subprocess.DEVNULL
        )
        os.close(ours[0])
        os.close(theirs[1])
        try:
            with Path(f"/dev/fd/{ours[1]}").open("wb") as commands, Path(f"/dev/fd/{theirs[0]}").open("rb") as answers:
                yield Browser(commands, answers, width)
        finally:
            running.terminate()
            running.wait(30)
            os.close(ours[1])
            os.close(theirs[0])
