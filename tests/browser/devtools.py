"""A headless Chromium driven over its DevTools pipe, with the standard library alone.

Chromium started with --remote-debugging-pipe reads commands from file descriptor 3 and writes answers and events to 4: JSON objects,
each ended by a zero byte.
"""
import base64
import json
import os
import select
import subprocess
import tempfile
import time

TIMEOUT_S = 120


class Browser:
    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory(prefix="flare_browser_", ignore_cleanup_errors=True)
        from_us, self.to_browser = os.pipe()
        self.from_browser, to_us = os.pipe()

        def wire():
            # Away from 3 and 4 first: one of the pipe's ends may sit there.
            a, b = os.dup(from_us), os.dup(to_us)
            os.dup2(a, 3)
            os.dup2(b, 4)

        arguments = [program, "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
                     "--hide-scrollbars", "--force-device-scale-factor=1", "--user-data-dir=" + self.folder.name]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
        self.log = open(os.path.join(self.folder.name, "browser.log"), "wb")
        self.process = subprocess.Popen(arguments, preexec_fn=wire, close_fds=False, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        os.close(from_us)
        os.close(to_us)
        self.buffer = b""
        self.last_id = 0

    def close(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError):
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.folder.cleanup()

    def message(self, deadline):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(deadline - time.monotonic(), 0))
            chunk = os.read(self.from_browser, 1 << 20) if ready else b""
            if not chunk:
                self.log.flush()
                with open(self.log.name, errors="replace") as log:
                    raise RuntimeError("the browser does not answer; its last words: " + log.read()[-2000:])
            self.buffer += chunk
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, session=None, events=None, **parameters):
        self.last_id += 1
        command = {"id": self.last_id, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self.to_browser, data):]
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self.message(deadline)
            if answer.get("id") == self.last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if events is not None and "method" in answer:
                events.append(answer)


class Page:
    """One tab. `problems` collects script exceptions, console errors and warnings, and everything the browser logs as an error;
    `requests` the addresses asked for."""

    def __init__(self, browser):
        self.browser = browser
        self.problems, self.requests, self.events = [], [], []
        self.session = None
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(domain + ".enable")

    def call(self, method, **parameters):
        answer = self.browser.call(method, self.session, self.events, **parameters)
        self.sort_events()
        return answer

    def sort_events(self):
        for event in self.events:
            method, p = event["method"], event.get("params", {})
            if method == "Runtime.exceptionThrown":
                details = p["exceptionDetails"]
                self.problems.append("exception: " + details.get("exception", {}).get("description", details["text"]))
            elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert", "warning"):
                self.problems.append("console: " + " ".join(str(a.get("value", a.get("description"))) for a in p["args"]))
            elif method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
                self.problems.append("log: " + p["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                self.requests.append(p["request"]["url"])
            elif method == "Page.loadEventFired":
                self.loaded = True
        self.events.clear()

    def open(self, path):
        self.problems.clear()
        self.requests.clear()
        self.loaded = False
        self.call("Page.navigate", url="file://" + os.path.abspath(path))
        deadline = time.monotonic() + TIMEOUT_S
        while not self.loaded:
            event = self.browser.message(deadline)
            if "method" in event:
                self.events.append(event)
            self.sort_events()
        self.evaluate("0")  # what happened before is reported before the answer

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: " + result["exceptionDetails"]["exception"].get("description", "failed"))
        return result["result"].get("value")

    def emulate(self, width=1280, height=900, scheme="light", media="", scripts=True):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x0, x1, y):
        self.mouse("mousePressed", x0, y, button="left", buttons=1, clickCount=1)
        for step in range(1, 6):
            self.mouse("mouseMoved", x0 + (x1 - x0) * step / 5, y, button="left", buttons=1)
        self.mouse("mouseReleased", x1, y, button="left", clickCount=1)

    def key(self, key, shift=False):
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **(text if kind == "keyDown" else {}))

    def screenshot(self, whole=True):
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def pdf(self):
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])
