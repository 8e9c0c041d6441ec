"""The phone page in a real Chromium, from "call me" to `valid: true`."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser import NEEDS_CHROMIUM, SIZES, assert_nothing_to_scroll_sideways, open_browser, open_page
from tests.conftest import RunningService, run_service

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async for browser in open_browser():
        yield browser


@pytest.fixture
async def fast_service() -> AsyncIterator[RunningService]:
    """Speech passes quickly; a person is waited for in real time."""
    async with run_service(simulator_speed=25) as running:
        yield running


@pytest.fixture
async def page(browser: Browser, fast_service: RunningService) -> AsyncIterator[Page]:
    async for page in open_page(browser, f"{fast_service.client.base_url}/phone"):
        yield page


async def heard_code(page: Page) -> str:
    await expect(page.locator(".digit")).to_have_count(6)
    return "".join(await page.locator(".digit").all_text_contents())


@pytest.mark.parametrize("size", SIZES)
async def test_call_me_listen_press_1_type_the_code(
    browser: Browser, fast_service: RunningService, size: str
) -> None:
    async for page in open_page(browser, f"{fast_service.client.base_url}/phone", size):
        await page.click("#call-me")
        await expect(page.locator("#caller-id")).to_have_text("+12025550100")
        await page.click("#answer")
        await expect(page.locator("#spoken")).to_contain_text("verification code")
        await expect(page.locator(".digit.current")).to_be_visible()
        await expect(page.locator("#key-prompt")).not_to_be_empty()
        code = await heard_code(page)
        await page.click('[data-key="1"]')
        await expect(page.locator("#timeline")).to_contain_text("Code read")
        await expect(page.locator("#key-prompt")).not_to_be_empty()
        assert await heard_code(page) == code
        await page.click("#hang-up")
        await expect(page.locator("#call-state")).to_have_text("Call ended")
        await page.fill("#code", code)
        await page.click("#verify")
        await expect(page.locator("#result")).to_contain_text("valid: true")
        await assert_nothing_to_scroll_sideways(page)


async def test_everything_works_by_keyboard(page: Page) -> None:
    await page.focus("#phone-number")
    await page.keyboard.press("Enter")
    await expect(page.locator("#answer")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#key-prompt")).not_to_be_empty()
    code = await heard_code(page)
    await page.keyboard.press("1")
    await expect(page.locator("#key-prompt")).to_be_empty()
    await page.focus("#code")
    await page.keyboard.type(code)
    await page.keyboard.press("Enter")
    await expect(page.locator("#result")).to_contain_text("valid: true")


async def test_a_wrong_code_says_how_many_attempts_are_left(page: Page) -> None:
    await page.click("#call-me")
    await page.click("#decline")
    await expect(page.locator("#call-state")).to_have_text("Call ended")
    await expect(page.locator("#status")).to_have_text("undelivered")
    await page.fill("#code", "000000")
    await page.click("#verify")
    await expect(page.locator("#result")).to_contain_text("4")
    await expect(page.locator("#result")).not_to_contain_text("valid: true")


async def test_another_call_is_offered_after_20_seconds(page: Page, fast_service: RunningService) -> None:
    await page.clock.install()
    await page.click("#call-me")
    await expect(page.locator("#call-again")).to_be_disabled()
    await page.click("#decline")
    await expect(page.locator("#call-state")).to_have_text("Call ended")
    await page.clock.fast_forward(21_000)
    await page.click("#call-again")
    await expect(page.locator("#answer")).to_be_visible()
    assert fast_service.carrier.requests == 2
    await page.click("#decline")
    await expect(page.locator("#call-state")).to_have_text("Call ended")


async def test_a_bad_number_is_explained(page: Page) -> None:
    await page.fill("#phone-number", "4155550100")
    await page.click("#call-me")
    await expect(page.locator("#call-note")).to_contain_text("country code")


async def test_a_page_that_is_reloaded_in_a_call_goes_on(page: Page) -> None:
    await page.click("#call-me")
    await expect(page.locator("#answer")).to_be_visible()
    await page.reload()
    await page.click("#answer")
    await expect(page.locator("#key-prompt")).not_to_be_empty()
    await page.click("#hang-up")
    await expect(page.locator("#call-state")).to_have_text("Call ended")


async def test_a_scripted_number_is_one_click_away(page: Page) -> None:
    await page.click("#callees summary")
    await page.click("text=+14155550105")
    await expect(page.locator("#phone-number")).to_have_value("+14155550105")
    await page.click("#call-me")
    await expect(page.locator("#status-words")).to_contain_text("busy", ignore_case=True)


async def test_the_page_speaks_to_a_screen_reader(page: Page) -> None:
    for name, role in (("Call me", "button"), ("Verify", "button"), ("Enter your code", "textbox")):
        await expect(page.get_by_role(role, name=name)).to_be_visible()  # type: ignore[arg-type]
    await page.click("#call-me")
    for name in ("Answer", "Decline"):
        await expect(page.get_by_role("button", name=name)).to_be_visible()
    assert await page.locator("#spoken").get_attribute("aria-live") == "polite"
    await page.click("#answer")
    await expect(page.get_by_role("group", name="Keypad").get_by_role("button")).to_have_count(12)
    await page.click("#hang-up")
    await expect(page.locator("#call-state")).to_have_text("Call ended")
