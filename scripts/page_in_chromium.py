#!/usr/bin/env python3
"""Tries a report's page in headless Chromium: sorting, filtering, keyboard, phone, print, and that nothing fails or is fetched.

    python3 scripts/page_in_chromium.py reports/smollm2-gsm8k/report.html [--screens FOLDER]

Needs `chromium` (Debian's package of that name, or another path in CHROMIUM) and nothing else: it speaks the DevTools
protocol over a pipe. Prints `skipped` and succeeds where there is no Chromium. `crates/report/tests/page.rs` runs it on pages
with hostile texts and on one of 1,000 runs. With --screens it also writes pictures for eyes: desktop light and dark, a phone, paper.
"""

import argparse
import base64
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time


class Browser:
    """Chromium with one tab, by the DevTools protocol: JSON texts that end with a zero byte, over file descriptors 3 and 4."""

    def __init__(self, program, profile):
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()

        def pipes():
            # Copies with high numbers first: the pipes may themselves be 3 or 4.
            reader = fcntl.fcntl(to_browser, fcntl.F_DUPFD, 10)
            writer = fcntl.fcntl(from_browser, fcntl.F_DUPFD, 10)
            os.dup2(reader, 3)
            os.dup2(writer, 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        options += ["--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            [program, *options], preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.buffer, self.events = 0, b"", []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def read(self):
        while b"\0" not in self.buffer:
            read = os.read(self.answers, 1 << 20)
            if not read:
                raise RuntimeError("Chromium ended")
            self.buffer += read
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.commands, data) :]
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method):
        while True:
            for event in self.events:
                if event.get("method") == method:
                    self.events.remove(event)
                    return event
            self.events.append(self.read())

    def open(self, url):
        start = time.monotonic()
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")
        return time.monotonic() - start

    def js(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def key(self, name, text=None):
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "Escape": 27, " ": 32}
        code = codes.get(name, ord(name[0].upper()))
        text = {"Enter": "\r", " ": " "}.get(name, text)
        down = {"type": "keyDown" if text else "rawKeyDown", "key": name, "windowsVirtualKeyCode": code}
        if text:
            down["text"] = text
        self.call("Input.dispatchKeyEvent", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)

    def size(self, width, height, phone=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone
        )

    def scheme(self, value):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def picture(self, path, whole=False):
        clip = {}
        if whole:
            area = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": area["width"], "height": min(area["height"], 9000), "scale": 1}}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def paper(self, path):
        data = self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def complaints(self):
        """Errors and warnings of the console, uncaught exceptions, and requests to anywhere but the page."""
        found = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(f"exception: {json.dumps(parameters['exceptionDetails'])[:400]}")
            elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                found.append(f"console: {json.dumps(parameters['args'])[:400]}")
            elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(f"log: {parameters['entry']['text']}")
            elif method == "Page.javascriptDialogOpening":
                found.append(f"dialog: {parameters['message']}")
            elif method == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not url.startswith(("file:", "about:")):
                    found.append(f"request: {url}")
        return found

    def close(self):
        try:
            self.call("Browser.close")
        except (RuntimeError, OSError):
            pass
        self.process.wait(timeout=20)


def check(holds, what):
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def try_tables(browser):
    results = "document.querySelector('#results table')"
    rows = browser.js(f"{results}.tBodies[0].rows.length")
    if rows < 2:
        check(browser.js(f"{results}.querySelectorAll('button').length") == 0, "a table of one row has no buttons")
        return
    column = browser.js(f"[...{results}.tHead.rows[0].cells].findIndex(c => c.textContent.startsWith('Trainable'))")
    heading = f"{results}.tHead.rows[0].cells[{column}]"
    values = f"[...{results}.tBodies[0].rows].map(r => Number(r.cells[{column}].dataset.v))"
    check(browser.js(f"{heading}.getAttribute('aria-sort')") == "none", "headings say that they sort")
    for way, order in (("ascending", 1), ("descending", -1)):
        browser.js(f"{heading}.querySelector('button').click()")
        found = browser.js(values)
        check(found == sorted(found, reverse=order < 0), f"sorted {way} by numbers")
        check(browser.js(f"{heading}.getAttribute('aria-sort')") == way, f"aria-sort is {way}")
    # Rows without a value are last both ways.
    share = f"{results}.tHead.rows[0].cells[{column + 1}]"
    last = f"[...{results}.tBodies[0].rows].at(-1).cells[{column + 1}].textContent"
    blank = browser.js(f"[...{results}.tBodies[0].rows].some(r => r.cells[{column + 1}].textContent === '-')")
    for _ in range(2 if blank else 0):
        browser.js(f"{share}.querySelector('button').click()")
        check(browser.js(last) == "-", "no value is last")

    count = browser.js("document.querySelectorAll('#runs tbody tr').length")
    if count < 5:
        return
    name = browser.js("document.querySelector('#runs tbody tr:last-child th').textContent")
    browser.js("document.querySelector('#runs .filter input').focus()")
    browser.call("Input.insertText", text=name.upper())
    shown = browser.js("[...document.querySelectorAll('#runs tbody tr')].filter(r => !r.hidden).map(r => r.textContent)")
    check(1 <= len(shown) < count and all(name in text for text in shown), f"the filter leaves {len(shown)} of {count} runs")
    said = browser.js("document.querySelector('#runs .filter output').textContent")
    check(said == f"{len(shown)} of {count}", "and says how many")
    browser.js("{const i = document.querySelector('#runs .filter input'); i.value = ''; i.dispatchEvent(new Event('input'))}")
    check(browser.js("document.querySelectorAll('#runs tbody tr[hidden]').length") == 0, "an empty filter shows all")


def try_keys(browser):
    browser.js("document.activeElement.blur(); scrollTo(0, 0)")
    browser.js("document.body.setAttribute('tabindex', '-1'); document.body.focus(); document.body.removeAttribute('tabindex')")
    browser.key("Tab")
    check(browser.js("document.activeElement.className") == "skip", "the first stop is the skip link")
    check(browser.js("document.activeElement.getBoundingClientRect().left >= 0"), "which is then in sight")
    browser.key("Enter")
    check(browser.js("document.activeElement.id") == "main", "it leads to the content")
    seen = []
    wanted = browser.js("Boolean(document.querySelector('#results thead button'))")
    for _ in range(60):
        browser.key("Tab")
        seen.append(browser.js("document.activeElement.matches('#results thead button')"))
        if seen[-1] or not wanted:
            break
    if wanted:
        check(seen[-1], "tabs reach the headings of the results")
        browser.key("Enter")
        check(
            browser.js("document.activeElement.parentElement.getAttribute('aria-sort')") == "ascending", "Enter sorts by a heading"
        )
    if browser.js("document.querySelectorAll('figure svg.panel').length"):
        browser.js("document.querySelector('figure svg.panel').focus()")
        browser.key("ArrowRight")
        text = browser.js("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
        check(":" in text, f"an arrow key shows a value of a figure: {text!r}")
        browser.key("Escape")
        check(browser.js("document.getElementById('tip').hidden"), "Escape hides it")
    browser.js("document.querySelector('details.run:last-of-type summary').focus()")
    browser.key("Enter")
    browser.js("new Promise(done => setTimeout(done, 100))")
    parts = browser.js("[...document.querySelectorAll('details.run[open] h4')].map(h => h.textContent)")
    check("Command" in parts and "Where it comes from" in parts, f"Enter opens a run: {parts}")
    unnamed = browser.js(
        "[...document.querySelectorAll('button, a, input, select, [tabindex=\"0\"]')].filter(e => e.offsetParent && "
        "!(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-label') || e.labels?.length || e.matches('pre'))).length"
    )
    check(unnamed == 0, "whatever takes the focus has a name")


def try_pointer(browser):
    place = browser.js(
        "(() => { const s = document.querySelector('figure svg.panel'); if (!s) return null; s.scrollIntoView({block: 'center'});"
        "const data = JSON.parse(document.getElementById('data').textContent).figures[s.dataset.points].values;"
        "const [x, y] = data[Math.floor(data.length / 2)]; const b = s.getBoundingClientRect(), k = b.width / 940;"
        "return [b.left + x * k, b.top + y * k] })()"
    )
    if place:
        browser.js("new Promise(done => setTimeout(done, 100))")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        check(browser.js("!document.getElementById('tip').hidden"), "pointing at a figure shows its value")


def try_links(browser):
    """A link of the table of runs opens its section."""
    link = browser.js("document.querySelector('#runs tbody a')?.getAttribute('href')")
    check(bool(link), "runs are links")
    browser.js("document.querySelector('#runs tbody a').click()")
    browser.js("new Promise(done => setTimeout(done, 200))")
    check(browser.js("document.querySelector('details.run').open"), "which open their section")
    bad = browser.js("[...document.querySelectorAll('nav a')].filter(a => !document.getElementById(decodeURIComponent(a.hash.slice(1)))).length")
    check(bad == 0, "every link of the contents leads somewhere")


def try_all(browser, url, screens):
    browser.size(1280, 900)
    browser.scheme("light")
    took = browser.open(url)
    print(f"opened in {took:.2f} s")
    check(browser.js("document.scripts.length") == 2, "no script but the page's own")
    check(browser.js("typeof globalThis.hostile") == "undefined", "no text of a result ran")
    doubles = browser.js("(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length - new Set(ids).size })()")
    check(doubles == 0, "every id is there once")
    try_tables(browser)
    try_pointer(browser)
    try_keys(browser)
    try_links(browser)
    for width, height, phone in ((1280, 900, False), (390, 844, True), (320, 700, True)):
        browser.size(width, height, phone)
        browser.js("new Promise(done => setTimeout(done, 100))")
        wide = browser.js("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        check(wide <= width, f"nothing is wider than {width} px (it is {wide})")
    if screens:
        screens = pathlib.Path(screens)
        screens.mkdir(parents=True, exist_ok=True)
        for name, (width, height, phone), scheme in (
            ("light", (1280, 900, False), "light"),
            ("dark", (1280, 900, False), "dark"),
            ("phone", (390, 844, True), "light"),
        ):
            browser.size(width, height, phone)
            browser.scheme(scheme)
            browser.open(url.split("#")[0])
            browser.js("document.querySelector('details.run').open = true")
            browser.js("new Promise(done => setTimeout(done, 300))")
            browser.picture(screens / f"{name}.png", whole=True)
        browser.scheme("light")
        browser.size(1280, 900)
        browser.paper(screens / "print.pdf")
        print(f"pictures: {screens}")
    complaints = browser.complaints()
    check(not complaints, f"no error, no warning, no request {complaints or ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--screens", help="a folder for pictures")
    arguments = parser.parse_args()
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        print("skipped: no chromium")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            try_all(browser, arguments.page.resolve().as_uri(), arguments.screens)
        finally:
            browser.close()


if __name__ == "__main__":
    sys.exit(main())
