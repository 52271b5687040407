"""Fixtures that every test may use."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """`UVLOOP=1 make test` runs what runs in this process on uvloop; processes of their own have it anyway."""
    return "asyncio", {"use_uvloop": os.environ.get("UVLOOP") == "1"}


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """A real Chromium, headless. The tests of a module share it, and its loop; each opens a context of its own."""
    if not CHROMIUM:
        text = "chromium is not installed: install Debian's package chromium, or set CHROMIUM to its path"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()
