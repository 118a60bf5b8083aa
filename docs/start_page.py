"""Draws docs/start-page.png: builds and serves the page of `web/`, and photographs it after a change of an answer.

uv run --group bench docs/start_page.py: needs Chromium.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/start-page.png"
ORIGIN = "https://github.com/acme/copier-fastapi.git"


def photograph(address: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{address}/#project_name=Order+Desk")
        page.locator("#code code").wait_for()
        page.get_by_role("radio", name="SQLite").check()
        page.get_by_text("The last change").wait_for()
        page.locator("summary", has_text="src/order_desk/").click()
        page.locator('[id="/src/order_desk/app.py"]').click()
        page.locator("#path", has_text="app.py").wait_for()
        page.evaluate("scrollTo(0, 0)")
        page.mouse.move(0, 0)
        drawn = Image.open(io.BytesIO(page.screenshot()))
    # A third of the size, and nobody sees it.
    drawn.convert("RGB").quantize(192, Image.Quantize.MAXCOVERAGE).save(PICTURE, optimize=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        service = Path(folder, "start-page")
        subprocess.run([sys.executable, ROOT / "web/build.py", service, ORIGIN], check=True)
        subprocess.run(["make", "--silent", "install"], cwd=service, check=True, stderr=subprocess.DEVNULL)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [service / ".venv/bin/python", "-m", "start_page"],
            cwd=service,
            env={**os.environ, "PORT": str(port), "LOG_LEVEL": "error"},
        )
        try:
            address = f"http://127.0.0.1:{port}"
            while not serves(address):
                time.sleep(0.1)
            photograph(address)
        finally:
            process.terminate()
            process.wait()


def serves(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{address}/health/ready"))
    except OSError:
        return False


if __name__ == "__main__":
    main()
