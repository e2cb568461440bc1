"""Headless Chromium with its network log: what a page becomes, and every address that it asked for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_OWN = re.compile(r"(?:file|chrome[\w-]*|data|about|devtools|blob):|https?://[\w.-]+\.(?:google|googleapis|gvt1)\.com/")


def visit(page: Path, folder: Path) -> tuple[str, list[str]]:
    """(the page's DOM once it has settled, the addresses asked for other than files); skips without a browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian and Ubuntu: apt-get install chromium)")
    log = folder / "net.json"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    events = json.loads(log.read_text(encoding="utf-8", errors="replace"))["events"]
    urls = {str(event["params"]["url"]) for event in events if "url" in event.get("params", {})}
    return done.stdout, sorted(url for url in urls if not _OWN.match(url))  # but for what the browser asks for itself
