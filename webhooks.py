"""Routes that carriers call: /answer, /otp-choice, /hangup, /ring, /events, each with the call token in its path.

The same routes without a token serve as the static URLs of a carrier's console. They believe a callback only when
it is signed and names a live call of ours.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from starlette.routing import BaseRoute

import problems
from call_flow import CallFlow
from conversation import CallInProgress, Place, Said
from lean_route import LeanRequest, LeanRoute, Reply, read_body
from otp_store import StoreUnavailable
from phone_numbers import mask
from problems import Problem
from text_messages import TextMessages
from verification import CallRef, short_id
from voice_provider import CallEvent, CallState, RawWebhook, VoiceProvider, WebhookRejected
from xml_builder import SILENT_HANGUP_XML, ask_again_xml

logger = logging.getLogger(__name__)

XML, JSON, FORM = "application/xml", "application/json", "application/x-www-form-urlencoded"
_READING = re.compile(rb"(?:^|&)n=([0-9])(?:&|$)")
_KEY_TRY = re.compile(rb"(?:^|&)k=([0-9])(?:&|$)")

Speaker = Callable[[CallInProgress, CallEvent, Place], Awaitable[Said | None]]


class NoCallOfOurs(WebhookRejected):
    """A callback that is authentic, but about no live call that was placed here."""


def routes(flow: CallFlow, texts: TextMessages) -> list[BaseRoute]:
    """The carriers' routes. An authentic call always gets well-formed XML with 200, also in trouble."""

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

    async def events(request: LeanRequest, call_token: str) -> Reply:
        """Whatever a carrier tells that does not fetch what to say; or, with its name in the place of the token,
        the events of its whole account, which must be signed."""
        if call_token in texts.providers:  # an account that tells of calls and text messages in one place
            answer = await _report(flow, texts, request, call_token)
            if answer is not None:
                return answer
        return await _notice(flow, request, call_token, None)

    async def message(request: LeanRequest, message_token: str) -> Reply:
        """What became of a text message; or, with the carrier's name in the place of the token, all reports of its
        account, which must be signed, or hold a token."""
        return await _report(flow, texts, request, message_token) or _empty()

    fetching = [one for one in flow.providers.values() if one.capabilities.fetches_script]
    telling = [one for one in flow.providers.values() if not one.capabilities.fetches_script]
    return [
        *_form_routes("/answer/{call_token}", answer, fetching, speaks=True),
        *_form_routes("/otp-choice/{call_token}", otp_choice, fetching, speaks=True),
        *_form_routes("/hangup/{call_token}", hangup, fetching, speaks=False),
        *_form_routes("/ring/{call_token}", ring, fetching, speaks=False),
        *_form_routes("/answer", console_answer, fetching, speaks=True),
        *_form_routes("/otp-choice", console_otp_choice, fetching, speaks=True),
        *_form_routes("/hangup", console_hangup, fetching, speaks=False),
        *_form_routes("/ring", console_ring, fetching, speaks=False),
        _events_route("/events/{call_token}", events, [one.callback_schema for one in telling], JSON),
        _events_route(
            "/message/{message_token}",
            message,
            [one.report_schema for one in texts.providers.values()],
            JSON,
            FORM,
        ),
    ]


async def _speak(flow: CallFlow, request: LeanRequest, call_token: str | None, speaker: Speaker) -> Reply:
    """Answer a callback that waits for XML."""
    try:
        current, event = await _authenticate(flow, request, call_token, CallState.ANSWERED)
    except (WebhookRejected, Problem) as error:
        _note_refusal(request, error)
        return _hang_up(error.status)
    except StoreUnavailable as error:
        status = problems.problem_of(error).status
        return _ask_again(flow, request) if _is_token(flow, call_token) else _hang_up(status)
    except Exception as error:
        return _hang_up(problems.problem_of(error).status)
    try:
        said = await speaker(current, event, _place_of(request))
    except WebhookRejected as error:
        _note_refusal(request, error)
        return _hang_up(error.status)
    except Exception as error:  # the callee waits: an authentic call never gets an error
        problems.problem_of(error)  # for the log
        said = flow.apology(current)
    # Some pages say that ring and hangup notices come to the answer URL, too: those want no document.
    return Reply(200, current.provider.render(*said), XML) if said else _empty()


def _is_token(flow: CallFlow, call_token: str | None) -> bool:
    return call_token is not None and flow.links.read_token(call_token) is not None


def _ask_again(flow: CallFlow, request: LeanRequest) -> Reply:
    """While the store is lost nobody knows whose call this is: its carrier comes back, and the call goes on."""
    reading, key_try = _place_of(request)
    place = f"?k={key_try}" if key_try is not None else "" if reading is None else f"?n={reading}"
    url = flow.links.public_urls_of(request.scope["raw_path"].decode("ascii"))[0] + place
    return Reply(200, ask_again_xml(url), XML)


async def _notice(
    flow: CallFlow, request: LeanRequest, call_token: str | None, expected: CallState | None
) -> Reply:
    """Answer a callback that only reports."""
    try:
        current, event = await _authenticate(flow, request, call_token, expected)
        await flow.on_call_event(current, event)
    except NoCallOfOurs as error:
        if expected is None:  # an account tells of everything that it does
            return _empty()
        _note_refusal(request, error)
        return _empty(error.status)
    except WebhookRejected as error:
        _note_refusal(request, error)
        return _empty(error.status)
    return _empty()


async def _report(flow: CallFlow, texts: TextMessages, request: LeanRequest, name_or_token: str) -> Reply | None:
    """Answer a report on a text message; None for a callback that is about none."""
    try:
        record = await texts.take_report(name_or_token, await _raw(flow, request))
    except WebhookRejected as error:
        _note_refusal(request, error)
        return _empty(error.status)
    if record is None:
        return None
    request.notes.update({"verification": short_id(record.id), "phone": mask(record.phone)})
    return _empty()


def _note_refusal(request: LeanRequest, error: Exception) -> None:
    request.notes["outcome"] = "refused"
    logger.warning("webhook refused: %s", error, extra={"request_id": request.request_id})


async def _authenticate(
    flow: CallFlow, request: LeanRequest, call_token: str | None, expected: CallState | None
) -> tuple[CallInProgress, CallEvent]:
    """The call that a callback is about, once its token or signature proved that it is.

    Raises: WebhookRejected.
    """
    if call_token is None:
        return await _authenticate_by_signature(flow, flow.providers.values(), request, expected)
    if call_token in flow.providers and expected is None:
        return await _authenticate_by_signature(flow, [flow.providers[call_token]], request, expected)
    ref = flow.links.read_token(call_token)
    # The body first: between the look at the call and the step that follows from it nothing else may happen.
    webhook = await _raw(flow, request) if ref is not None else None
    current = await flow.find_call(ref) if ref is not None else None
    if current is None or webhook is None:
        if ref is not None and webhook is not None:
            await _end_given_up(flow, ref, webhook, expected)
        raise WebhookRejected("callback has an unknown call token, or one whose call is long over", status=404)
    _note_call(request, current)
    _check_method(current.provider, webhook)
    if expected is not None and not current.provider.capabilities.fetches_script:
        raise WebhookRejected("callback came to a route that its carrier is never told", status=404)
    nonce = current.provider.check_webhook(webhook)
    current = await _check_replay(flow, request, current, webhook, nonce, has_token=True)
    event = current.provider.parse_event(webhook, expected)
    return current, event if event.call_id else replace(event, call_id=current.call.call_id)


async def _end_given_up(flow: CallFlow, ref: CallRef, webhook: RawWebhook, expected: CallState | None) -> None:
    provider = await flow.find_given_up(ref)
    if provider is not None:
        provider.check_webhook(webhook)
        await flow.end_given_up(ref, provider, provider.parse_event(webhook, expected))


async def _authenticate_by_signature(
    flow: CallFlow, providers: Iterable[VoiceProvider], request: LeanRequest, expected: CallState | None
) -> tuple[CallInProgress, CallEvent]:
    webhook = await _raw(flow, request)
    provider, nonce = _signer_of(webhook, providers)
    event = provider.parse_event(webhook, expected)
    current = await flow.find_call_by_id(provider.name, event.call_id)
    if current is None:
        raise NoCallOfOurs("callback names no live call of ours", status=404)
    _note_call(request, current)
    return await _check_replay(flow, request, current, webhook, nonce, has_token=False), event


def _signer_of(webhook: RawWebhook, providers: Iterable[VoiceProvider]) -> tuple[VoiceProvider, str | None]:
    """The carrier whose signature a callback bears. Raises: WebhookRejected."""
    refusal = WebhookRejected("callback is from no carrier that is configured")
    for provider in providers:
        try:
            _check_method(provider, webhook)
            return provider, provider.check_webhook(webhook, must_be_signed=True)
        except WebhookRejected as error:
            refusal = error
    raise refusal


def _check_method(provider: VoiceProvider, webhook: RawWebhook) -> None:
    """A page that looks at links must not use up a reading: GET is for carriers that ask so.

    Raises: WebhookRejected.
    """
    if webhook.method not in provider.capabilities.callback_methods:
        raise WebhookRejected(f"callback came with {webhook.method}", status=405)


async def _check_replay(
    flow: CallFlow,
    request: LeanRequest,
    current: CallInProgress,
    webhook: RawWebhook,
    nonce: str | None,
    *,
    has_token: bool,
) -> CallInProgress:
    if nonce is None:
        return current
    content = b"\0".join((request.scope["raw_path"], request.scope["query_string"], webhook.body))
    return replace(current, is_replay=await flow.check_replay(current, nonce, content, has_token=has_token))


def _note_call(request: LeanRequest, current: CallInProgress) -> None:
    request.notes.update({"verification": short_id(current.record.id), "phone": mask(current.record.phone)})


async def _raw(flow: CallFlow, request: LeanRequest) -> RawWebhook:
    known: RawWebhook | None = request.scope.get("webhook")
    if known is None:
        known = request.scope["webhook"] = await _read_raw(flow, request)
    return known


async def _read_raw(flow: CallFlow, request: LeanRequest) -> RawWebhook:
    path = request.scope["raw_path"].decode("ascii")  # as the carrier sent it, which is what it signed
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    query = request.scope["query_string"].decode("latin-1")
    urls = flow.links.public_urls_of(path)
    return RawWebhook(urls, headers, await read_body(request.receive), request.method, query)


def _place_of(request: LeanRequest) -> Place:
    query = request.scope["query_string"]
    reading, key_try = _READING.search(query), _KEY_TRY.search(query)
    return Place(int(reading[1]) if reading else None, int(key_try[1]) if key_try else None)


def _hang_up(status: int) -> Reply:
    return Reply(status, SILENT_HANGUP_XML, XML)


def _empty(status: int = 200) -> Reply:
    return Reply(status, b"", "text/plain")


def _form_routes(path: str, endpoint: Any, providers: list[VoiceProvider], *, speaks: bool) -> list[BaseRoute]:
    """A route for forms; also for GET where a carrier may be told to ask so."""
    xml = {XML: {"example": SILENT_HANGUP_XML.decode()}} if speaks else {}
    answers = {200: "what to do next" if speaks else "noted", **_REFUSALS}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": xml} if speaks else {"description": text}
        for status, text in answers.items()
    }
    body = _body([one.callback_schema for one in providers], FORM)
    made: list[BaseRoute] = [
        LeanRoute(path, endpoint, methods=["POST"], tags=["carrier"], openapi_extra=body, responses=responses)
    ]
    if any("GET" in provider.capabilities.callback_methods for provider in providers):
        made.append(LeanRoute(path, endpoint, methods=["GET"], include_in_schema=False))
    return made


def _events_route(path: str, endpoint: Any, schemas: list[Mapping[str, Any]], *media_types: str) -> BaseRoute:
    answers = {200: "noted", **_REFUSALS}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": text} for status, text in answers.items()
    }
    body = _body(schemas, *media_types)
    return LeanRoute(path, endpoint, methods=["POST"], tags=["carrier"], openapi_extra=body, responses=responses)


def _body(schemas: list[Mapping[str, Any]], *media_types: str) -> dict[str, Any]:
    schema: Any = (
        {"anyOf": schemas} if len(schemas) > 1 else schemas[0] if schemas else {"type": "object", "examples": [{}]}
    )
    content = {media_type: {"schema": schema} for media_type in media_types}
    return {"requestBody": {"description": "the carrier's fields; others are ignored", "content": content}}


_REFUSALS = {
    400: "not what the carrier sends, or a field named twice",
    401: "the nonce of another callback",
    403: "wrong or missing signature, or another call's id",
    404: "unknown token, or one whose call is long over",
    405: "a method that the carrier does not use",
    413: "more than 16 KiB",
}
