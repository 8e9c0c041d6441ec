"""The page at /docs in a real Chromium: all of the OpenAPI document, in a form that people can use."""

import shlex
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests.browser import NEEDS_CHROMIUM, SIZES, assert_nothing_to_scroll_sideways, open_browser, open_page
from tests.conftest import RunningService, run_service

pytestmark = NEEDS_CHROMIUM

BACKEND = ("send-otp", "verify-otp", "otp-status-phone", "cancel-otp")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async for browser in open_browser():
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def service() -> AsyncIterator[RunningService]:
    async with run_service() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, service: RunningService) -> AsyncIterator[Page]:
    async for page in open_page(browser, f"{service.client.base_url}/docs"):
        await expect(page.get_by_role("article")).not_to_have_count(0)
        yield page


async def show(page: Page, document: dict[str, Any]) -> None:
    """Load the page with another document."""

    async def answer(route: Route) -> None:
        await route.fulfill(json=document)

    await page.route("**/openapi.json", answer)
    await page.reload()
    await expect(page.get_by_role("article")).to_have_count(sum(map(len, document["paths"].values())))


async def test_every_route_is_shown_with_its_words_fields_and_answers(page: Page, service: RunningService) -> None:
    document = service.app.openapi()
    await expect(page.get_by_role("article")).to_have_count(sum(map(len, document["paths"].values())))
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            heading = page.get_by_role("heading", name=f"{method.upper()} {path}", exact=True)
            card = page.get_by_role("article").filter(has=heading)
            first_words = route["description"].split(".")[0].split("`")[0]
            await expect(card).to_contain_text(first_words)
            for status in route["responses"]:
                await expect(card.locator(".answers .code", has_text=status)).to_have_count(1)
    for name, field in document["components"]["schemas"]["SendOtp"]["properties"].items():
        row = page.locator("#send-otp dt").filter(has=page.get_by_text(name, exact=True)).first
        await expect(row.locator("+ dd")).to_contain_text(field["description"])


async def test_a_field_says_whether_it_must_be_there_and_what_bounds_it(page: Page) -> None:
    fields = page.locator("#send-otp .fields").first
    await expect(fields.locator("dt").first).to_have_text("phone string · required")
    await expect(fields.locator("dt", has_text="code_length")).to_contain_text("integer · optional")
    await expect(fields.locator("dt", has_text="code_length").locator("+ dd")).to_contain_text("at most 10")
    status = page.locator("#otp-status-phone")
    await expect(status.locator("dt").first).to_have_text("phone string in the path · required")
    await expect(status.locator("dt", has_text="call.times_spoken")).to_be_visible()


async def test_answers_have_examples(page: Page) -> None:
    card = page.locator("#verify-otp")
    await expect(card.locator("details").first.locator("pre")).to_contain_text('"valid": true')
    refused = card.locator("details", has_text="400")
    await refused.locator("summary").click()
    await expect(refused.locator("pre").last).to_contain_text('"reason": "incorrect"')


@pytest.mark.parametrize("route_id", BACKEND)
async def test_a_curl_line_can_be_copied_and_works(page: Page, service: RunningService, route_id: str) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card = page.locator(f"#{route_id}")
    await card.get_by_role("button", name="Copy").click()
    await expect(card.get_by_text("Copied")).to_be_visible()
    line = await page.evaluate("navigator.clipboard.readText()")
    assert line == await card.locator(".curl pre").text_content()
    await service.send("+14155550100")
    answer = await run_curl(service.client, line)
    assert answer.status_code in ((200, 400) if route_id == "verify-otp" else (200,)), answer.text


async def run_curl(client: httpx.AsyncClient, line: str) -> httpx.Response:
    """What curl would get for this line."""
    words = shlex.split(line.replace("\\\n", " "))
    url = next(word for word in words if word.startswith(str(client.base_url)))
    headers = dict(words[at + 1].split(": ") for at, word in enumerate(words) if word == "-H")
    data = words[words.index("-d") + 1] if "-d" in words else None
    return await client.request("POST" if "-X" in words else "GET", url, headers=headers, content=data)


async def test_without_a_clipboard_the_line_is_selected(page: Page) -> None:
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    await page.locator("#cancel-otp").get_by_role("button", name="Copy").click()
    await expect(page.locator("#cancel-otp").get_by_text("press Ctrl+C")).to_be_visible()
    line = await page.locator("#cancel-otp .curl pre").text_content()
    assert await page.evaluate("getSelection().toString()") == line


async def test_a_key_is_asked_for_where_the_document_asks_for_one(page: Page, service: RunningService) -> None:
    document = (await service.client.get("/openapi.json")).json()
    await show(page, document)
    await expect(page.get_by_text("needs an API key")).to_have_count(0)
    document["components"]["securitySchemes"] = {"ApiKey": {"type": "http", "scheme": "bearer"}}
    document["paths"]["/send-otp"]["post"]["security"] = [{"ApiKey": []}]
    await show(page, document)
    await expect(page.get_by_text("needs an API key")).to_have_count(1)
    await expect(page.locator("#send-otp .curl pre")).to_contain_text('-H "Authorization: Bearer $API_KEY"')
    await expect(page.locator("#verify-otp .curl pre")).not_to_contain_text("Authorization")


async def test_what_the_document_says_never_becomes_markup(page: Page, service: RunningService) -> None:
    document = (await service.client.get("/openapi.json")).json()
    document["paths"]["/send-otp"]["post"]["description"] = "<img src=/x onerror=alert(1)> and `<b>code</b>`"
    await show(page, document)
    await expect(page.locator("#send-otp .about")).to_have_text("<img src=/x onerror=alert(1)> and <b>code</b>")
    await expect(page.locator("#send-otp :is(img, .about b)")).to_have_count(0)


async def test_a_deep_link_leads_to_its_route(browser: Browser, service: RunningService) -> None:
    async for page in open_page(browser, f"{service.client.base_url}/docs#cancel-otp"):
        await expect(page.locator("#cancel-otp:target")).to_be_in_viewport()
        await page.get_by_role("navigation").get_by_role("link", name="/ready").click()
        await expect(page.get_by_role("heading", name="GET /ready")).to_be_in_viewport()
        assert page.url.endswith("/docs#ready")


async def test_the_search_leaves_what_fits(page: Page, service: RunningService) -> None:
    routes = sum(map(len, service.app.openapi()["paths"].values()))
    await page.evaluate("scrollTo(0, document.body.scrollHeight)")
    await page.get_by_role("searchbox").fill("CODE_LENGTH")
    await expect(page.get_by_role("article")).to_have_count(1)
    await expect(page.get_by_role("heading", name="POST /send-otp")).to_be_in_viewport()
    await expect(page.get_by_text(f"1 of {routes} routes")).to_be_visible()
    await expect(page.get_by_role("heading", level=2)).to_have_count(1)
    await page.evaluate("location.hash = 'health'")
    await expect(page.locator("#health")).to_be_in_viewport()
    await expect(page.get_by_role("article")).to_have_count(routes)


async def test_it_works_by_keyboard(page: Page) -> None:
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the routes")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    answer = page.locator("#verify-otp details").nth(1)
    await answer.locator("summary").focus()
    await page.keyboard.press("Enter")
    await expect(answer.locator("pre").first).to_be_visible()


@pytest.mark.parametrize("size", SIZES)
async def test_nothing_has_to_be_scrolled_sideways(browser: Browser, service: RunningService, size: str) -> None:
    async for page in open_page(browser, f"{service.client.base_url}/docs", size):
        await expect(page.get_by_role("article")).not_to_have_count(0)
        await page.evaluate("document.querySelectorAll('details').forEach((entry) => (entry.open = true))")
        await assert_nothing_to_scroll_sideways(page)


async def test_many_statuses_of_one_meaning_share_a_line_that_wraps(
    browser: Browser, service: RunningService
) -> None:
    document = (await service.client.get("/openapi.json")).json()
    responses = document["paths"]["/verify-otp"]["post"]["responses"]
    responses.update({str(status): {"description": "refused"} for status in range(400, 440)})
    async for page in open_page(browser, f"{service.client.base_url}/docs", "phone"):
        await show(page, document)
        await expect(page.locator("#verify-otp .answer", has_text="refused").locator(".code")).to_have_count(40)
        await assert_nothing_to_scroll_sideways(page)


async def test_a_document_that_cannot_be_had_is_said(page: Page) -> None:
    await page.route("**/openapi.json", lambda route: route.fulfill(status=404))
    await page.reload()
    await expect(page.get_by_role("main")).to_contain_text("/openapi.json cannot be shown: status 404")


async def test_with_several_carriers_the_fields_of_each_are_shown_once(browser: Browser) -> None:
    async with run_service(simulate=True, providers="vobiz,plivo,cm,voipbin", sms_providers="plivo,cm") as several:
        async for page in open_page(browser, f"{several.client.base_url}/docs"):
            message = page.locator("#message-message-token .fields").first
            for name in ("MessageUUID", "Status", "messages.msg.reference"):
                await expect(message.locator("dt").filter(has=page.get_by_text(name, exact=True))).to_have_count(1)
            answer = page.locator("#answer-call-token .fields").first
            await expect(answer.locator("dt").filter(has=page.get_by_text("CallUUID", exact=True))).to_have_count(
                1
            )
            ready = page.locator("#ready")
            await expect(ready).to_contain_text("requests are welcome")
            await ready.locator("summary").first.click()
            await expect(ready.locator("dt", has_text="providers[].state")).to_be_visible()
