"""Routes that carriers call: /answer, /otp-choice, /hangup, /ring, each with the call token in its path.

The same routes without a token serve as the static URLs of a carrier's console. They believe a callback only when
it is signed and names a live call of ours.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.routing import BaseRoute

import problems
from call_flow import CallFlow, CallInProgress, Said
from call_script import SILENT_HANGUP
from lean_route import LeanRequest, LeanRoute, Reply, read_body
from phone_numbers import mask
from problems import Problem
from verification import short_id
from voice_provider import CallEvent, CallState, CallUrls, RawWebhook, VoiceProvider, WebhookRejected

logger = logging.getLogger(__name__)

XML = "application/xml"
_READING = re.compile(rb"(?:^|&)n=([1-9])(?:&|$)")

_NO_URLS = CallUrls("", "", "", "", "", "")  # a script that only hangs up leads nowhere

Speaker = Callable[[CallInProgress, CallEvent, int | None], Awaitable[Said | None]]


def routes(flow: CallFlow) -> list[BaseRoute]:
    """The carriers' routes. An authentic call always gets well-formed XML with 200, also in trouble."""
    provider = flow.default_provider

    async def answer(request: LeanRequest, call_token: str) -> Reply:
        """What to say to the callee who answered, or who asked to hear the code again."""
        return await _speak(flow, request, call_token, flow.answer)

    async def otp_choice(request: LeanRequest, call_token: str) -> Reply:
        """What comes after the code was read, with the key that was pressed, if any."""
        return await _speak(flow, request, call_token, flow.choice)

    async def hangup(request: LeanRequest, call_token: str) -> Reply:
        """The call ended."""
        return await _notice(flow, request, call_token, CallState.COMPLETED)

    async def ring(request: LeanRequest, call_token: str) -> Reply:
        """The phone rings."""
        return await _notice(flow, request, call_token, CallState.RINGING)

    async def console_answer(request: LeanRequest) -> Reply:
        """The static answer URL of a carrier's console; signed callbacks of live calls only."""
        return await _speak(flow, request, None, flow.answer)

    async def console_otp_choice(request: LeanRequest) -> Reply:
        """As /otp-choice/{call_token}; signed callbacks of live calls only."""
        return await _speak(flow, request, None, flow.choice)

    async def console_hangup(request: LeanRequest) -> Reply:
        """The static hangup URL of a carrier's console; signed callbacks of live calls only."""
        return await _notice(flow, request, None, CallState.COMPLETED)

    async def console_ring(request: LeanRequest) -> Reply:
        """As /ring/{call_token}; signed callbacks of live calls only."""
        return await _notice(flow, request, None, CallState.RINGING)

    return [
        _route("/answer/{call_token}", answer, provider, speaks=True),
        _route("/otp-choice/{call_token}", otp_choice, provider, speaks=True),
        _route("/hangup/{call_token}", hangup, provider, speaks=False),
        _route("/ring/{call_token}", ring, provider, speaks=False),
        _route("/answer", console_answer, provider, speaks=True),
        _route("/otp-choice", console_otp_choice, provider, speaks=True),
        _route("/hangup", console_hangup, provider, speaks=False),
        _route("/ring", console_ring, provider, speaks=False),
    ]


async def _speak(flow: CallFlow, request: LeanRequest, call_token: str | None, speaker: Speaker) -> Reply:
    """Answer a callback that waits for XML."""
    try:
        current, event = await _authenticate(flow, request, call_token, CallState.ANSWERED)
    except (WebhookRejected, Problem) as error:
        _note_refusal(request, error)
        return _hang_up(flow, error.status)
    except Exception as error:
        return _hang_up(flow, problems.problem_of(error).status)
    try:
        said = await speaker(current, event, _reading_of(request))
    except WebhookRejected as error:
        _note_refusal(request, error)
        return _hang_up(flow, error.status)
    except Exception as error:  # the callee waits: an authentic call never gets an error
        problems.problem_of(error)  # for the log
        said = flow.apology(current)
    # Some pages say that ring and hangup notices come to the answer URL, too: those want no document.
    return Reply(200, current.provider.render(*said), XML) if said else _empty()


async def _notice(flow: CallFlow, request: LeanRequest, call_token: str | None, expected: CallState) -> Reply:
    """Answer a callback that only reports."""
    try:
        current, event = await _authenticate(flow, request, call_token, expected)
        await flow.on_call_event(current, event)
    except WebhookRejected as error:
        _note_refusal(request, error)
        return _empty(error.status)
    return _empty()


def _note_refusal(request: LeanRequest, error: Exception) -> None:
    request.notes["outcome"] = "refused"
    logger.warning("webhook refused: %s", error, extra={"request_id": request.request_id})


async def _authenticate(
    flow: CallFlow, request: LeanRequest, call_token: str | None, expected: CallState
) -> tuple[CallInProgress, CallEvent]:
    """The call that a callback is about, once its token or signature proved that it is.

    Raises: WebhookRejected.
    """
    if call_token is None:
        return await _authenticate_by_signature(flow, flow.default_provider, request, expected)
    ref = flow.links.read_token(call_token)
    # The body first: between the look at the call and the step that follows from it nothing else may happen.
    webhook = await _raw(flow, request) if ref is not None else None
    current = await flow.find_call(ref) if ref is not None else None
    if current is None or webhook is None:
        raise WebhookRejected("callback has an unknown call token, or one whose call is long over", status=404)
    _note_call(request, current)
    nonce = current.provider.check_webhook(webhook)
    current = await _check_replay(flow, request, current, webhook, nonce)
    return current, current.provider.parse_event(webhook, expected)


async def _authenticate_by_signature(
    flow: CallFlow, provider: VoiceProvider, request: LeanRequest, expected: CallState
) -> tuple[CallInProgress, CallEvent]:
    webhook = await _raw(flow, request)
    nonce = provider.check_webhook(webhook, must_be_signed=True)
    event = provider.parse_event(webhook, expected)
    current = await flow.find_call_by_id(provider.name, event.call_id)
    if current is None:
        raise WebhookRejected("callback names no live call of ours", status=404)
    _note_call(request, current)
    return await _check_replay(flow, request, current, webhook, nonce), event


async def _check_replay(
    flow: CallFlow, request: LeanRequest, current: CallInProgress, webhook: RawWebhook, nonce: str | None
) -> CallInProgress:
    if nonce is None:
        return current
    content = b"\0".join((request.scope["raw_path"], request.scope["query_string"], webhook.body))
    return replace(current, is_replay=await flow.check_replay(current, nonce, content))


def _note_call(request: LeanRequest, current: CallInProgress) -> None:
    request.notes.update({"verification": short_id(current.record.id), "phone": mask(current.record.phone)})


async def _raw(flow: CallFlow, request: LeanRequest) -> RawWebhook:
    path = request.scope["raw_path"].decode("ascii")  # as the carrier sent it, which is what it signed
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    return RawWebhook(flow.links.public_urls_of(path), headers, await read_body(request.receive))


def _reading_of(request: LeanRequest) -> int | None:
    number = _READING.search(request.scope["query_string"])
    return int(number[1]) if number else None


def _hang_up(flow: CallFlow, status: int) -> Reply:
    return Reply(status, flow.default_provider.render(SILENT_HANGUP, _NO_URLS), XML)


def _empty(status: int = 200) -> Reply:
    return Reply(status, b"", "text/plain")


def _route(path: str, endpoint: Any, provider: VoiceProvider, *, speaks: bool) -> LeanRoute:
    form = {
        "requestBody": {
            "description": "the carrier's fields; others are ignored",
            "content": {"application/x-www-form-urlencoded": {"schema": provider.callback_schema}},
        }
    }
    xml = {XML: {"example": provider.render(SILENT_HANGUP, _NO_URLS).decode()}} if speaks else {}
    answers = {200: "what to do next" if speaks else "noted", **_REFUSALS}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": xml} if speaks else {"description": text}
        for status, text in answers.items()
    }
    return LeanRoute(path, endpoint, methods=["POST"], tags=["carrier"], openapi_extra=form, responses=responses)


_REFUSALS = {
    400: "not a form, or a field named twice",
    401: "the nonce of another callback",
    403: "wrong or missing signature, or another call's id",
    404: "unknown call token, or the call is long over",
    413: "more than 16 KiB",
}
