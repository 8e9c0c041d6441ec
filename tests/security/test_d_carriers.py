"""D1, D7 for every carrier: on each of its routes, during a call, whoever is not the carrier changes nothing."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tests.conftest import RunningService, keep_secret, run_service
from verification import CallRef, MessageRef

PHONE = "+14155550142"
REFUSALS = (400, 401, 403, 404, 405, 413)
FETCHED = ("/answer", "/otp-choice", "/hangup", "/ring")


class Scheme(NamedTuple):
    """How a carrier signs: the header, and the one of its nonce, if it has one; and what it would post."""

    header: str
    nonce_header: str
    media_type: str
    body: str

    def forged(self) -> dict[str, Mapping[str, str | bytes]]:
        header = self.header
        nonce = {self.nonce_header: "12345678901234567890"} if self.nonce_header else {}
        return {
            "unsigned": {},
            "empty": {header: "", **nonce},
            "wrong": {header: "A" * 43 + "=", **nonce},
            "wrong, in hex": {header: "0" * 64, **nonce},
            "cut": {header: "A" * 20, **nonce},
            "not ASCII": {header: "\xe9".encode("latin-1") * 44, **nonce},
            "10 KB": {header: "x" * 10_000, **nonce},
        }


def form_scheme(name: str, version: str) -> Scheme:
    header = f"X-{name}-Signature-{version}"
    form = "application/x-www-form-urlencoded"
    return Scheme(header, f"{header}-Nonce", form, "CallUUID={id}&Event=Hangup&MessageUUID={id}&Status=delivered")


VOIPBIN = Scheme("X-VoIPBin-Signature", "", "application/json", '{"type": "%s", "data": {"id": "{id}"}}')
VOIPBIN_CALL = VOIPBIN._replace(body=VOIPBIN.body % "call_hangup")
VOIPBIN_MESSAGE = VOIPBIN._replace(body=VOIPBIN.body % "message_updated")


class Live(NamedTuple):
    """A call that rings, or a message that is on its way, with the id and the token that its carrier knows."""

    service: RunningService
    id: str
    token: str
    verification: str

    async def status(self) -> dict[str, Any]:
        """Without the one field that changes by itself."""
        status = await self.service.status(self.verification)
        del status["expires_in"]
        return status

    async def settle(self, kind: str, state: str) -> None:
        """Until the simulated carrier has reported what it has to report by itself."""
        while (await self.status())[kind]["state"] != state:
            continue

    async def post(self, path: str, scheme: Scheme, headers: Mapping[str, str | bytes]) -> int:
        given: Any = {"Content-Type": scheme.media_type, **headers}
        body = scheme.body.replace("{id}", self.id)
        answer = await self.service.client.post(path.format(token=self.token), content=body, headers=given)
        assert "CANARY" not in answer.text
        return answer.status_code

    async def check_refused(self, path: str, scheme: Scheme, headers: Mapping[str, str | bytes]) -> None:
        before = await self.status()
        assert await self.post(path, scheme, headers) in REFUSALS
        assert await self.status() == before


@asynccontextmanager
async def live_call(carrier: str, **settings: Any) -> AsyncIterator[Live]:
    """A call through a simulated carrier to a phone in the browser, which nobody answers."""
    async with run_service(simulate=True, providers=carrier, **settings) as service:
        sent = await service.send(PHONE, code="CANARY77")
        assert sent.status_code == 200
        verification_id = sent.json()["verification_id"]
        urls = service.app.state.service._texts._links.urls(CallRef(verification_id, 1), reading=0)
        token = keep_secret(urls.events.split("/")[-1])
        live = Live(service, sent.json()["call_uuid"], token, verification_id)
        await live.settle("call", "ringing" if carrier in SIGNING else "dialing")
        yield live


SIGNING = {
    "vobiz": (form_scheme("Vobiz", "V3"), [*FETCHED, *(f"{path}/{{token}}" for path in FETCHED)]),
    "plivo": (form_scheme("Plivo", "V3"), [*FETCHED, *(f"{path}/{{token}}" for path in FETCHED)]),
    "voipbin": (VOIPBIN_CALL, ["/events/voipbin"]),
}


@pytest.mark.parametrize("carrier", SIGNING)
async def test_d1_no_forged_signature_is_believed_on_any_route_of_a_carrier_that_signs(carrier: str) -> None:
    scheme, paths = SIGNING[carrier]
    # The others require signatures by themselves.
    required = {"webhook_signatures": "required"} if carrier == "vobiz" else {}
    async with live_call(carrier, **required) as live:
        for path in paths:
            for headers in scheme.forged().values():
                await live.check_refused(path, scheme, headers)
        assert (await live.status())["call"]["state"] == "ringing"


@pytest.mark.parametrize("carrier", ["phlo", "cm", "voipbin"])
async def test_d7_without_the_token_nothing_is_believed_of_a_carrier_that_is_told_everything(carrier: str) -> None:
    bodies = {"phlo": '{"event": "busy"}', "cm": '{"call-id": "{id}", "result": {"code": 12}}'}
    scheme = VOIPBIN._replace(body=bodies.get(carrier, VOIPBIN_CALL.body))
    async with live_call(carrier) as live:
        token = live.token
        body, signature = token[:-32], token[-32:]
        wrong = (
            body + "0" * 32, body + signature[::-1], body, signature, token[:-1], token + "0", token.upper(),
            "0" * 68, carrier, "x" * 10_000, "%C3%A9" * 34,
        )  # fmt: skip
        paths = [f"/events/{one}" for one in wrong] + [f"/message/{one}" for one in (*wrong, token)]
        paths += ["/events/", "/message/", *FETCHED, *(f"{path}/{token}" for path in FETCHED)]
        for path in paths:
            await live.check_refused(path, scheme, {})
        assert await live.post("/events/{token}", scheme, {}) == 200, "the right token is believed"


async def test_d7_the_right_token_ends_a_call_of_a_carrier_that_signs_nothing_and_tells_no_code() -> None:
    scheme = VOIPBIN._replace(body='{"call-id": "{id}", "result": {"code": 12}}')
    async with live_call("cm") as live:
        another = scheme._replace(body=scheme.body.replace("{id}", "another-call"))
        await live.check_refused("/events/{token}", another, {})
        assert await live.post("/events/{token}", scheme, {}) == 200
        assert (await live.status())["call"]["end_reason"] == "rejected"


TEXTERS = {
    "plivo": (form_scheme("Plivo", "V2"), ["/message/{token}", "/message/plivo", "/events/plivo"]),
    "cm": (VOIPBIN._replace(body='{"reference": "{id}", "status": "2"}'), ["/message/cm", "/events/cm"]),
    "voipbin": (VOIPBIN_MESSAGE, ["/events/voipbin", "/message/voipbin"]),
}


@pytest.mark.parametrize("carrier", TEXTERS)
async def test_d1_no_forged_report_moves_a_text_message(carrier: str) -> None:
    scheme, paths = TEXTERS[carrier]
    # At a crawl: the carrier's own reports come long after the test.
    async with run_service(
        simulate=True, providers=carrier, sms_providers=carrier, simulator_speed=0.001
    ) as service:
        sent = await service.send(PHONE, channel="sms", code="CANARY77")
        assert sent.status_code == 200
        record = await service.app.state.service._store.find_by_id(sent.json()["verification_id"])
        token = keep_secret(service.app.state.service._texts._links.message_token(MessageRef(record.id, 1)))
        message_id = sent.json().get("message_uuid") or "0" * 32
        live = Live(service, message_id, token, record.id)
        await live.settle("message", "sent" if carrier == "plivo" else "queued")
        for path in paths:
            for headers in scheme.forged().values():
                await live.check_refused(path, scheme, headers)
        assert (await live.status())["message"]["state"] != "delivered"
