"""The phone page in a real Chromium, from "call me" to `valid: true`."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Request, expect

from carrier_settings import CarrierSettings
from tests.browser import (
    NEEDS_CHROMIUM,
    SIZES,
    assert_nothing_to_scroll_sideways,
    expect_seen,
    open_browser,
    open_page,
)
from tests.conftest import FakeTime, RunningService, keep_secret, run_service

pytestmark = NEEDS_CHROMIUM

API_KEY = "page-key-CANARY-0123456789abcdef0123456789"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async for browser in open_browser():
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def fast_service() -> AsyncIterator[RunningService]:
    """Speech passes quickly; a person is waited for in real time."""
    async with run_service(simulator_speed=25) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
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
        await expect_seen(page, "verification code")
        await expect_seen(page, "a current digit")
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


async def decline_call(page: Page) -> None:
    await page.click("#decline")
    await expect(page.locator("#call-state")).to_have_text("Call ended")


async def give_key(page: Page, key: str) -> None:
    await expect(page.get_by_label("API key")).to_be_focused()
    await page.keyboard.type(key)
    await page.keyboard.press("Enter")


async def test_a_service_with_keys_asks_for_one_and_then_does_what_was_asked(browser: Browser) -> None:
    requested: list[Request] = []
    async with run_service(simulator_speed=25, api_keys=f"page:{keep_secret(API_KEY)}") as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone", "phone"):
            page.on("request", lambda request: requested.append(request))
            await expect(page.get_by_label("API key")).to_be_hidden()
            await page.click("#call-me")
            await expect(page.locator("#key-note")).to_have_text(re.compile("wants an API key"))
            await expect(page.get_by_label("API key")).to_have_attribute("type", "password")
            await assert_nothing_to_scroll_sideways(page)
            await give_key(page, "no-key-of-this-service")
            await expect(page.locator("#key-note")).to_have_text("The service does not know this key.")
            await give_key(page, API_KEY)
            await expect(page.get_by_label("API key")).to_be_hidden()
            await page.click("#answer")
            await expect(page.locator("#key-prompt")).not_to_be_empty()
            code = await heard_code(page)
            await page.click("#hang-up")
            await expect(page.locator("#call-state")).to_have_text("Call ended")
            await page.reload()
            await page.fill("#code", code)
            await page.click("#verify")
            await expect(page.locator("#result")).to_contain_text("valid: true")
            await expect(page.locator("#status")).to_have_text("verified")
            assert API_KEY not in await page.content()
            assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    with_key = {url_path(one) for one in requested if "authorization" in one.headers}
    assert with_key == {"/send-otp", "/verify-otp", "/otp-status"}
    assert not [one.url for one in requested if API_KEY in one.url]


def url_path(request: Request) -> str:
    """The path of a request, without a verification's id."""
    return re.sub(r"^https?://[^/]+|/vrf_\w+$", "", request.url)


async def test_a_code_that_waits_for_a_key_is_checked_when_the_key_is_there(browser: Browser) -> None:
    async with run_service(simulator_speed=25, api_keys=keep_secret(API_KEY)) as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone"):
            await page.fill("#code", "000000")
            await page.click("#verify")
            await give_key(page, API_KEY)
            await expect(page.locator("#result")).to_contain_text("expired_or_not_found")


async def test_a_key_that_is_withdrawn_in_a_call_is_asked_for_again(browser: Browser) -> None:
    async with run_service(simulator_speed=25, api_keys=keep_secret(API_KEY)) as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone"):
            await page.click("#call-me")
            await give_key(page, API_KEY)
            await decline_call(page)
            await expect(page.locator("#status")).to_have_text("undelivered")
            await page.evaluate("sessionStorage.setItem('api_key', 'withdrawn')")
            await page.reload()
            await expect(page.locator("#key-note")).to_have_text("The service does not know this key.")
            await page.get_by_label("API key").fill(API_KEY)
            await page.click("#use-key")
            await expect(page.locator("#status")).to_have_text("undelivered")


async def test_too_many_wrong_keys_are_said(browser: Browser, fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, api_keys=keep_secret(API_KEY)) as running:
        wrong_key = {"Authorization": "Bearer no-key-of-this-service"}
        for _ in range(10):
            body = {"phone": "+14155550100"}
            refused = await running.client.post("/send-otp", json=body, headers=wrong_key)
            assert refused.status_code == 401
        async for page in open_page(browser, f"{running.client.base_url}/phone"):
            await page.click("#call-me")
            await give_key(page, "no-key-of-this-service")
            await expect(page.locator("#call-note")).to_have_text("Too many wrong API keys came from here.")
            await expect(page.locator("#call-wait")).to_have_text(re.compile(r"ask again in \d+ min"))


async def test_without_keys_none_is_asked_for_and_none_is_sent(page: Page) -> None:
    requested: list[Request] = []
    page.on("request", lambda request: requested.append(request))
    await page.click("#call-me")
    await decline_call(page)
    await expect(page.locator("#key-form")).to_be_hidden()
    assert not [one.url for one in requested if "authorization" in one.headers]


async def test_a_second_call_at_once_says_how_long_to_wait(browser: Browser, fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, simulator_speed=25, resend_after_seconds=30) as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone"):
            await page.clock.install()
            await page.click("#call-me")
            await expect(page.locator("#answer")).to_be_visible()
            await page.click("#call-me")
            await expect(page.locator("#call-note")).to_contain_text("still under way")
            await page.click("#answer")
            await expect(page.locator("#key-prompt")).not_to_be_empty()
            code = await heard_code(page)
            await page.click("#hang-up")
            await expect(page.locator("#call-note")).to_contain_text("is over")
            await page.click("#call-me")
            await expect(page.locator("#call-note")).to_have_text(re.compile("^No call: too many"))
            await expect(page.locator("#call-wait")).to_have_text(re.compile(r"ask again in (30|2\d) s"))
            await expect(page.locator("#status")).to_be_visible()  # a refusal leaves the call before it alone
            await page.press("#phone-number", "Enter")
            assert running.carrier.requests == 1
            await page.clock.fast_forward(15_000)
            await expect(page.locator("#call-wait")).to_have_text(re.compile(r"ask again in (15|1[0-4]|\d) s"))
            fake_time.advance(30)
            await page.clock.fast_forward(16_000)
            await expect(page.locator("#call-wait")).to_be_empty()
            await page.fill("#code", code)
            await page.click("#verify")
            await expect(page.locator("#result")).to_contain_text("valid: true")
            await page.click("#call-me")
            await expect(page.locator("#answer")).to_be_visible()
            await decline_call(page)


async def test_another_call_is_not_offered_before_the_service_would_place_it(
    browser: Browser, fake_time: FakeTime
) -> None:
    async with run_service(fake_time.clock, simulator_speed=25, resend_after_seconds=60) as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone"):
            await page.clock.install()
            await page.click("#call-me")
            await decline_call(page)
            await page.clock.fast_forward(40_000)
            await expect(page.locator("#again-wait")).to_contain_text(re.compile(r"in (20|1\d) s"))
            await expect(page.locator("#call-again")).to_be_disabled()


async def test_another_number_need_not_wait(browser: Browser, fake_time: FakeTime) -> None:
    async with run_service(fake_time.clock, sends_per_ten_minutes=1) as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone", "phone"):
            await page.click("#call-me")
            await decline_call(page)
            await page.click("#call-me")
            await expect(page.locator("#call-wait")).to_have_text("You can ask again in 10 min.")
            await assert_nothing_to_scroll_sideways(page)
            await page.fill("#phone-number", "+14155550105")
            await expect(page.locator("#call-wait")).to_be_empty()
            await page.click("#call-me")
            await expect(page.locator("#status-words")).to_contain_text("busy", ignore_case=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"blocked": "prefix:+1415"}, "this number may not be called", id="destination_not_allowed"),
        pytest.param({"blocked": "all"}, "has stopped its calls", id="sending_stopped"),
        pytest.param({"call_prices": "max=2", "spend_per_hour": "1"}, "has spent", id="spending_limit_reached"),
    ],
)
async def test_a_refusal_is_said_in_plain_words(browser: Browser, settings: dict[str, Any], words: str) -> None:
    async with run_service(**settings) as running:
        async for page in open_page(browser, f"{running.client.base_url}/phone"):
            await page.click("#call-me")
            await expect(page.locator("#call-note")).to_contain_text(words)
            await expect(page.locator("#call-wait")).to_be_empty()
            assert running.carrier.requests == 0


# Several carriers, and text messages

CARRIERS = tuple(CarrierSettings.REQUIRED)


@pytest_asyncio.fixture(loop_scope="module")
async def five_carriers() -> AsyncIterator[RunningService]:
    async with run_service(
        simulate=True, providers=",".join(CARRIERS), sms_providers="plivo", simulator_speed=25
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page_of_five(browser: Browser, five_carriers: RunningService) -> AsyncIterator[Page]:
    async for page in open_page(browser, f"{five_carriers.client.base_url}/phone"):
        yield page


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_call_through_each_carrier_from_the_choice_to_valid(page_of_five: Page, carrier: str) -> None:
    page = page_of_five
    await page.select_option("#carrier", carrier)
    await page.click("#call-me")
    await expect(page.locator("#call-note")).to_have_text(
        f"Calling +14155550100 from +12025550100 through {carrier}."
    )
    await page.click("#answer")
    await expect(page.locator("#status-carrier")).to_have_text(f"through {carrier}")
    code = await heard_code(page)
    await page.click("#hang-up")
    await expect(page.locator("#call-state")).to_have_text("Call ended")
    await page.fill("#code", code)
    await page.click("#verify")
    await expect(page.locator("#result")).to_contain_text("valid: true")


async def test_a_failover_is_seen_in_the_timeline(page_of_five: Page) -> None:
    await page_of_five.fill("#phone-number", "+14155550118")
    await page_of_five.click("#call-me")
    await expect(page_of_five.locator("#timeline")).to_contain_text("Next carrier")
    await expect(page_of_five.locator("#status-carrier")).to_have_text("through plivo")


@pytest.mark.parametrize("size", SIZES)
async def test_a_code_that_was_not_heard_can_be_texted(
    browser: Browser, five_carriers: RunningService, size: str
) -> None:
    async for page in open_page(browser, f"{five_carriers.client.base_url}/phone", size):
        await page.clock.install()
        await page.click("#call-me")
        await decline_call(page)
        await expect(page.locator("#text-me")).to_be_disabled()
        await page.clock.fast_forward(21_000)
        await page.click("#text-me")
        await expect(page.locator("#code")).to_be_focused()
        await expect(page.locator("#text-head")).to_have_text("Text message from +12025550100 to +14155550100")
        await expect(page.locator("#text-me")).to_be_hidden()
        await assert_nothing_to_scroll_sideways(page)
        found = re.search(r"\b\d{6}\b", await page.inner_text("#text-body"))
        assert found is not None
        await page.fill("#code", keep_secret(found[0]))
        await page.click("#verify")
        await expect(page.locator("#result")).to_contain_text("valid: true")
        await page.reload()
        await expect(page.locator("#text-message")).to_be_visible()
        await page.click("#call-me")
        await expect(page.locator("#answer")).to_be_visible()
        await expect(page.locator("#text-message")).to_be_hidden()
        await decline_call(page)


async def test_one_carrier_is_no_choice_and_without_texts_none_is_offered(page: Page) -> None:
    await page.click("#call-me")
    await expect(page.locator("#call-note")).to_have_text("Calling +14155550100 from +12025550100.")
    await decline_call(page)
    await expect(page.locator("#call-again")).to_be_visible()
    for name in ("#through", "#text-me"):
        await expect(page.locator(name)).to_be_hidden()
    await expect(page.locator("#status-carrier")).to_be_empty()
