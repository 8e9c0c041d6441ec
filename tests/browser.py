"""Pages in a real Chromium.

Skips where no Chromium is installed, unless REQUIRE_BROWSER is set: then its absence is a failure.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
# Quiet and offline: no updates, no component downloads, no QUIC.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}

# The tests of a module share one Chromium, whose start takes as long as most of them, and with it an event loop.
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        not CHROMIUM and "REQUIRE_BROWSER" not in os.environ,
        reason="no Chromium is installed: apt install chromium",
    ),
]


# Sentences pass quickly, and may be over before somebody looks: all are noted, and whether a digit was marked.
WITNESS = """
addEventListener("DOMContentLoaded", () => {
  const seen = new Set();
  new MutationObserver(() => {
    seen.add(document.querySelector("#spoken")?.textContent);
    if (document.querySelector(".digit.current")) seen.add("a current digit");
    document.documentElement.dataset.seen = [...seen].join("; ");
  }).observe(document.body, {childList: true, characterData: true, subtree: true});
});
"""


async def open_browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=30_000)  # the machine may be busy with other tests
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


async def open_page(browser: Browser, url: str, size: str = "desktop") -> AsyncIterator[Page]:
    """A page. What its console complains of, but answers that a test provokes, and foreign hosts fail the test."""
    complaints: list[str] = []
    requested: list[str] = []

    def note(message: ConsoleMessage) -> None:
        is_provoked = re.search("the server responded with a status of (4|503)", message.text)
        if message.type in ("error", "warning") and not is_provoked:
            complaints.append(message.text)

    page = await browser.new_page(viewport={"width": SIZES[size]["width"], "height": SIZES[size]["height"]})
    await page.add_init_script(WITNESS)
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    await page.goto(url)
    yield page
    await page.close()
    assert complaints == []
    host = "/".join(url.split("/")[:3]) + "/"
    assert [other for other in requested if not other.startswith(host)] == [], "a foreign host was asked"


async def expect_seen(page: Page, text: str) -> None:
    """On the telephone, now or before."""
    await expect(page.locator("html")).to_have_attribute("data-seen", re.compile(re.escape(text)))


async def assert_nothing_to_scroll_sideways(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
