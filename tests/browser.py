"""A headless Chromium for tests of pages, driven over its debugging pipe; nothing but the browser is needed."""

import base64
import json
import os
import shutil
import subprocess
import time

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --remote-debugging-pipe --no-first-run"
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8, "Enter": 13, "Escape": 27, " ": 32}
KEYS |= {",": 188, ".": 190, "/": 191}
TYPED = {"Enter": "\r"}  # what a key types, where it is not its name


class Browser:
    """One page in a Chromium of its own; a context manager.

    Parameters
    ----------
    profile : Path
        folder for the profile
    downloads : Path
        folder for files that a page saves
    """

    def __init__(self, profile, downloads):
        there, self.pipe = os.pipe()
        self.answers, back = os.pipe()
        command = f'exec "{BINARY}" {FLAGS} --user-data-dir="{profile}" about:blank 3<&{there} 4>&{back}'
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(["bash", "-c", command], pass_fds=(there, back), **quiet)
        os.close(there)
        os.close(back)
        self.number, self.buffer, self.session = 0, b"", None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.pipe)
        self.process.kill()
        self.process.wait()
        os.close(self.answers)

    def __call__(self, method, **params):
        """Result of a command of the DevTools protocol."""
        self.number += 1
        session = {"sessionId": self.session} if self.session and not method.startswith("Browser.") else {}
        os.write(self.pipe, json.dumps({"id": self.number, "method": method, "params": params, **session}).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                part = os.read(self.answers, 2**20)
                assert part, "Chromium has ended"
                self.buffer += part
            line, _, self.buffer = self.buffer.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, page, width=1400, height=1000, touch=False):
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.value("window.pageBefore = true")  # of the page before, which may answer for a while
        self("Page.navigate", url=page.as_uri())
        self.wait("!window.pageBefore && document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression):
        result = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, seconds=60):
        end = time.time() + seconds
        while not self.value(expression):
            assert time.time() < end, expression
            time.sleep(0.05)

    def press(self, *keys):
        for key in keys:
            typed = {"text": TYPED.get(key, key)} if key in TYPED or len(key) == 1 else {}
            self("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", key=key, windowsVirtualKeyCode=KEYS[key], **typed)
            self("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=KEYS[key])

    def tap(self, element):
        """Touch the middle of an element, by its id."""
        self.value(f"document.getElementById('{element}').scrollIntoView({{block: 'center'}})")
        box = json.loads(self.value(f"JSON.stringify(document.getElementById('{element}').getBoundingClientRect())"))
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        self("Input.dispatchTouchEvent", type="touchStart", touchPoints=[point])
        self("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def picture(self, path):
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))
