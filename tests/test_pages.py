"""Pages and their files: which are served when, and under which headers."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import create_app
from settings import Settings, load_settings
from tests.conftest import VOBIZ_TOKEN, RunningService

WEB = Path(__file__).parent.parent / "web"
VOBIZ = {
    "allow_anonymous": True,
    "allowed_regions": "US",
    "vobiz_auth_id": "MA_TEST",
    "vobiz_auth_token": VOBIZ_TOKEN,
    "from_number": "+12025550100",
    "public_url": "https://otp.example.com",
}
DOCS = ("/docs", "/openapi.json")


async def get(settings: Settings, path: str) -> httpx.Response:
    app = create_app(settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("given", "is_served"),
    [
        pytest.param({}, True, id="simulator"),
        pytest.param({"api_docs": False}, False, id="simulator, off"),
        pytest.param(VOBIZ, False, id="real carrier"),
        pytest.param({**VOBIZ, "api_docs": True}, True, id="real carrier, on"),
    ],
)
async def test_the_description_is_served_with_the_simulator_unless_said_otherwise(
    given: dict[str, Any], is_served: bool
) -> None:
    settings = load_settings(**given)
    for path in DOCS:
        answer = await get(settings, path)
        assert answer.status_code == (200 if is_served else 404), path
        assert is_served or answer.json()["code"] == "not_found"
    assert "/send-otp" in create_app(settings).openapi()["paths"], "in code it is there either way"


def test_the_switch_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().serves_api_docs
    monkeypatch.setenv("API_DOCS", "false")
    assert not load_settings().serves_api_docs
    monkeypatch.setenv("API_DOCS", "")
    assert load_settings().serves_api_docs


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/"])
async def test_fastapis_own_pages_are_gone(path: str) -> None:
    answer = await get(load_settings(), path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("path", ["/docs", "/phone", "/web/docs.js", "/web/phone.css"])
async def test_pages_and_their_files_may_load_only_what_we_serve(service: RunningService, path: str) -> None:
    answer = await service.client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("page", ["docs.html", "phone.html"])
def test_a_page_has_nothing_inline_and_nothing_foreign(page: str) -> None:
    text = (WEB / page).read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\s(style|on\w+)=|https?://", text)


@pytest.mark.parametrize(
    ("given", "is_served"),
    [
        pytest.param({"api_docs": False}, True, id="for the phone page"),
        pytest.param({**VOBIZ, "api_docs": True}, True, id="for the docs page"),
        pytest.param(VOBIZ, False, id="for no page"),
    ],
)
async def test_files_are_served_when_any_page_is(given: dict[str, Any], is_served: bool) -> None:
    answer = await get(load_settings(**given), "/web/look.css")
    assert answer.status_code == (200 if is_served else 404)


@pytest.mark.parametrize("name", ["..%2fserver.py", "%2e%2e/server.py", "phone.html", "docs.html", "none.js", ""])
async def test_only_known_files_are_served(service: RunningService, name: str) -> None:
    answer = await service.client.get(f"/web/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
