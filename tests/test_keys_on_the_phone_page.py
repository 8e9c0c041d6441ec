"""Several keys on the phone page, in a real Chromium: those before a code, and a code that is typed."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser import (
    NEEDS_CHROMIUM,
    SIZES,
    assert_nothing_to_scroll_sideways,
    expect_seen,
    open_browser,
    open_page,
)
from tests.conftest import RunningService, keep_secret, run_service

pytestmark = NEEDS_CHROMIUM

CARRIERS = ("vobiz", "plivo", "voipbin")
TWO_KEYS = re.compile(r"^Press \d \d now$")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async for browser in open_browser():
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def careful_service() -> AsyncIterator[RunningService]:
    """Speech passes quickly; a person is waited for in real time."""
    providers = ",".join(CARRIERS)
    async with run_service(
        simulate=True, providers=providers, simulator_speed=25, require_keypress=True
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, careful_service: RunningService) -> AsyncIterator[Page]:
    async for page in open_page(browser, f"{careful_service.client.base_url}/phone"):
        yield page


async def answer(page: Page, carrier: str = "vobiz") -> None:
    await page.select_option("#carrier", carrier)
    await page.click("#call-me")
    await page.click("#answer")


async def wanted_keys(page: Page) -> list[str]:
    await expect(page.locator("#key-prompt")).to_have_text(TWO_KEYS)
    return re.findall(r"\d", await page.inner_text("#key-prompt"))


async def hang_up(page: Page) -> None:
    await page.click("#hang-up")
    await expect(page.locator("#call-state")).to_have_text("Call ended")


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_the_keys_before_a_code_are_shown_one_after_the_other(page: Page, carrier: str) -> None:
    await answer(page, carrier)
    keys = await wanted_keys(page)
    for place, key in enumerate(keys):
        wanted = page.locator(f'[data-key="{key}"].wanted')
        await expect(page.locator("#key-prompt")).to_have_text(f"Press {' '.join(keys[place:])} now")
        await expect(wanted).to_be_visible()
        await wanted.click()
    await expect(page.locator("#digits .digit")).to_have_count(6)
    code = keep_secret("".join(await page.locator("#digits .digit").all_text_contents()))
    await expect(page.locator("#timeline")).to_contain_text("Code read")
    await hang_up(page)
    await page.fill("#code", code)
    await page.click("#verify")
    await expect(page.locator("#result")).to_contain_text("valid: true")


async def test_wrong_keys_are_asked_for_once_more(page: Page) -> None:
    await answer(page)
    keys = await wanted_keys(page)
    for _ in keys:
        await page.keyboard.press(str((int(keys[0]) + 1) % 10))
    await expect(page.locator("#timeline")).to_contain_text("Wrong keys")
    for key in await wanted_keys(page):
        await page.keyboard.press(key)
    await expect(page.locator("#timeline")).to_contain_text("Keys pressed")
    await hang_up(page)


@pytest.mark.parametrize("size", SIZES)
async def test_a_code_that_the_app_shows_is_typed_on_the_telephone(
    browser: Browser, careful_service: RunningService, size: str
) -> None:
    async for page in open_page(browser, f"{careful_service.client.base_url}/phone", size):
        await page.select_option("#mode", "keypad")
        await answer(page)
        await expect(page.locator("#key-prompt")).to_have_text("Type 6 digits now")
        await expect_seen(page, "Please type the code")
        await expect(page.locator("#code")).to_be_hidden()
        code = keep_secret(await page.inner_text("#shown-code"))
        for key in code[:2]:
            await page.click(f'[data-key="{key}"]')
        await expect(page.locator("#typed")).to_have_text(code[:2])
        await expect(page.locator("#typed .digit")).to_have_count(6)
        await expect(page.locator("#shown-code")).to_be_in_viewport()
        await expect(page.locator(".keypad .wanted")).to_have_count(0)
        await assert_nothing_to_scroll_sideways(page)
        for key in code[2:]:
            await page.click(f'[data-key="{key}"]')
        await expect(page.locator("#result")).to_contain_text("valid: true")
        await expect(page.locator("#status")).to_have_text("verified")
        await expect(page.locator("#call-state")).to_have_text("Call ended")
        await page.reload()
        await expect(page.locator("#shown-code")).to_have_text(code)


async def test_a_wrong_code_on_the_telephone_is_asked_for_once_more(page: Page) -> None:
    await page.select_option("#mode", "keypad")
    await answer(page)
    await expect(page.locator("#key-prompt")).to_have_text("Type 6 digits now")
    code = keep_secret(await page.inner_text("#shown-code"))
    for key in f"{(int(code) + 1) % 10**6:06d}":
        await page.keyboard.press(key)
    await expect(page.locator("#timeline")).to_contain_text("Wrong code")
    await expect(page.locator("#typed")).to_have_text("")
    for key in code:
        await page.keyboard.press(key)
    await expect(page.locator("#result")).to_contain_text("valid: true")


async def test_what_is_shown_to_be_typed_goes_with_the_next_call(page: Page) -> None:
    await page.select_option("#mode", "keypad")
    await page.click("#call-me")
    await expect(page.locator("#shown-code")).to_be_visible()
    code = keep_secret(await page.inner_text("#shown-code"))
    await page.click("#call-me")
    await expect(page.locator("#call-note")).to_contain_text("still under way")
    await expect(page.locator("#shown-code")).to_have_text(code)
    await page.click("#decline")
    await expect(page.locator("#call-state")).to_have_text("Call ended")
    await page.select_option("#mode", "speak")
    await page.fill("#phone-number", "+14155550105")
    await page.click("#call-me")
    await expect(page.locator("#shown-code")).to_be_hidden()
    await expect(page.locator("#code")).to_be_visible()
