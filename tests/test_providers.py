"""What every carrier's client must do, whatever its protocol. What only one of them does is in its own tests."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from call_script import Manner, PlayAudio, Speak
from carrier_settings import CarrierSettings
from language_choice import LanguageChoice, bare_language
from settings import load_settings
from tests.conftest import keep_secret, leaks_in
from tests.provider_cases import (
    CALLEE,
    CALLER_ID,
    CODE,
    SMS_CASES,
    TOKEN,
    VOICE_CASES,
    Report,
    SmsCase,
    Vendor,
    VoiceCase,
    webhook_of,
)
from tests.whole_calls import TEXTS, WRITER, whole_call, words_of
from voice_provider import (
    AccountRefused,
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    EndReason,
    MachineDetection,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    SignaturePolicy,
    VoiceProvider,
    WebhookRejected,
)
from xml_builder import escaped

LANGUAGES = LanguageChoice(TEXTS, "en-US")
URLS = CallUrls(
    *(
        f"https://otp.example.com/{name}/{TOKEN}"
        for name in ("answer", "fallback", "choice", "hangup", "ring", "events")
    )
)
# Every end that a phone call can come to, apart from those that only what was spoken can tell.
REASONS = {
    None,
    EndReason.BUSY,
    EndReason.NO_ANSWER,
    EndReason.REJECTED,
    EndReason.VOICEMAIL,
    EndReason.FAILED,
    EndReason.CANCELLED,
}

# Lists of no calls, under all the names that carriers give them.
NO_CALLS = b'{"calls": [], "objects": [], "data": [], "result": []}'

every_carrier = pytest.mark.parametrize("case", VOICE_CASES.values(), ids=VOICE_CASES)
every_texter = pytest.mark.parametrize("case", SMS_CASES.values(), ids=SMS_CASES)


class Carrier:
    """A carrier that gives one answer to everything, and keeps what it was asked."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = (status, body, headers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        status, body, headers = self._answer
        return httpx.Response(status, content=body, headers=headers)


def failing(error: Exception) -> Vendor:
    def vendor(_: httpx.Request) -> httpx.Response:
        raise error

    return vendor


def not_to_be_asked(request: httpx.Request) -> httpx.Response:
    raise AssertionError(f"{request.method} {request.url.path} was sent, and nothing was to be")


def order_for(case: VoiceCase, **changes: Any) -> CallOrder:
    """An order as the dialer makes it: with what to say only for a carrier that does not fetch it."""
    can = case.client(not_to_be_asked).capabilities
    language = can.languages[0]
    script = None if can.fetches_script else whole_call(CODE, language, max_replays=min(3, can.max_replays))
    order = CallOrder(CALLEE, CALLER_ID, URLS, ring_timeout_seconds=30, time_limit_seconds=150, script=script)
    return replace(order, reference="7f3a11c0-1", **changes)


async def request_for(case: VoiceCase, order: CallOrder) -> httpx.Request:
    """The one request that an order becomes."""
    carrier = Carrier(200, case.accepted)
    await case.client(carrier).place_call(order)
    (request,) = carrier.requests
    return request


def secrets_in(case: VoiceCase | SmsCase, text: str) -> list[str]:
    """What no URL, log line, error or representation may hold."""
    return [secret for secret in (*case.secrets, CALLEE[1:], CODE, TOKEN) if secret in text]


def test_every_carrier_that_can_be_configured_is_held_to_the_contract() -> None:
    assert set(VOICE_CASES) == set(CarrierSettings.REQUIRED)
    assert set(SMS_CASES) == set(load_settings().carriers_with_text_messages)


# Placing a call


@every_carrier
async def test_a_call_is_one_request_which_is_answered_with_its_id(case: VoiceCase) -> None:
    carrier = Carrier(200, case.accepted)
    client = case.client(carrier)
    assert await client.place_call(order_for(case)) == case.call_id
    (request,) = carrier.requests
    assert request.method == "POST"
    sent = request.content.decode()
    assert CALLEE in sent, "numbers are E.164, as they are everywhere inside"
    assert CALLER_ID in sent
    fetches_script = client.capabilities.fetches_script
    assert (URLS.answer if fetches_script else URLS.events) in sent, "else nothing will be heard of the call"
    if not fetches_script:
        assert re.search(f"{CODE}|{'.*'.join(words_of(CODE))}", sent)


@every_carrier
async def test_no_secret_is_in_a_url_a_log_line_or_a_representation(
    case: VoiceCase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="root")
    carrier = Carrier(200, case.accepted)
    client = case.client(carrier)
    order = order_for(case)
    await client.place_call(order)
    urls = " ".join(str(request.url) for request in carrier.requests)
    assert secrets_in(case, urls) == []
    assert secrets_in(case, repr(client)) == []
    assert secrets_in(case, repr(order)) == []
    assert secrets_in(case, repr(webhook_of(CALLEE.encode(), {"x-signature": case.secrets[0]}))) == []
    assert secrets_in(case, caplog.text) == []


@every_carrier
async def test_a_carrier_that_fetches_nothing_is_never_asked_for_a_call_without_words(case: VoiceCase) -> None:
    client = case.client(not_to_be_asked)
    if client.capabilities.fetches_script:
        assert (await request_for(case, replace(order_for(case), script=None))).method == "POST"
    else:
        with pytest.raises(ValueError, match="told"):
            await client.place_call(replace(order_for(case), script=None))


# Errors. Statuses that carriers give a meaning of their own are in their own tests.

REFUSED: dict[int, type[ProviderError]] = {
    400: CallRejected,
    401: AccountRefused,
    402: AccountRefused,
    403: CallRejected,
    404: CallRejected,
    429: ProviderThrottled,
}


async def error_of(case: VoiceCase, vendor: Vendor) -> ProviderError:
    """What placing a call raises; asked once, and silent about secrets."""
    asked = []

    def counting(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return vendor(request)

    with pytest.raises(ProviderError) as raised:
        await case.client(counting).place_call(order_for(case))
    assert len(asked) == 1, "a request for a call is never sent twice, whatever the answer"
    assert secrets_in(case, str(raised.value)) == []
    assert raised.value.__cause__ is None, "a chained error would bring the request's URL into a traceback"
    return raised.value


@every_carrier
@pytest.mark.parametrize("status", REFUSED)
async def test_a_refusal_in_the_carriers_own_words_dialled_nothing(case: VoiceCase, status: int) -> None:
    error = await error_of(case, Carrier(status, case.refusals[status]))
    assert type(error) is case.own_words.get(status, REFUSED[status])
    assert str(status) in str(error), "the log of the operator names the status"


@every_carrier
@pytest.mark.parametrize("status", REFUSED)
async def test_a_refusal_by_whatever_stands_before_the_carrier_dialled_nothing_either(
    case: VoiceCase, status: int
) -> None:
    error = await error_of(case, Carrier(status, b"<html>no</html>"))
    assert type(error) is REFUSED[status]


@every_carrier
async def test_a_throttled_call_says_when_to_try_again(case: VoiceCase) -> None:
    error = await error_of(case, Carrier(429, b"", **{"retry-after": "7"}))
    assert isinstance(error, ProviderThrottled)
    assert error.retry_after_seconds == 7


@every_carrier
async def test_a_500_proves_nothing_unless_the_carriers_own_api_says_that_it_failed(case: VoiceCase) -> None:
    own = await error_of(case, Carrier(500, case.refusals[500]))
    proof = case.own_words.get(500, ProviderUnavailable)
    assert type(own) is (proof if case.is_500_proof else CallOutcomeUnknown)
    for body in (b"", b"<html>Bad Gateway</html>", b"{}", b"[]", b'"x"', b"\xff", b"[" * 100_000, case.accepted):
        foreign = await error_of(case, Carrier(502, body))
        assert type(foreign) is CallOutcomeUnknown, body[:20]


@every_carrier
@pytest.mark.parametrize("body", [b"", b"junk", b"{}", b"[]", b"[1]", b"null", b"\xff", b"x" * 300_000])
async def test_a_success_that_names_no_call_may_still_ring(case: VoiceCase, body: bytes) -> None:
    assert type(await error_of(case, Carrier(200, body))) is CallOutcomeUnknown


@every_carrier
@pytest.mark.parametrize("status", [302, 408])
async def test_an_answer_that_is_neither_yes_nor_no_may_hide_a_call(case: VoiceCase, status: int) -> None:
    error = await error_of(case, Carrier(status, b"", location="https://elsewhere.example.com/"))
    assert type(error) is CallOutcomeUnknown
    assert str(status) in str(error)


@every_carrier
async def test_only_a_request_that_was_never_sent_is_certain_to_have_dialled_nothing(case: VoiceCase) -> None:
    for unsent in (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
        error = await error_of(case, failing(unsent("x")))
        assert type(error) is ProviderUnavailable
        assert "nothing was dialled" in str(error)
    for sent in (httpx.ReadTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        error = await error_of(case, failing(sent("x")))
        assert type(error) is CallOutcomeUnknown
        assert "may have been carried out" in str(error)


# Ending a call, and asking for one


@every_carrier
async def test_hanging_up_tells_whether_there_was_a_call_to_end(case: VoiceCase) -> None:
    if case.client(not_to_be_asked).capabilities.hangs_up:
        assert await case.client(Carrier(*case.hung_up)).hang_up(case.call_id) is True
        assert await case.client(Carrier(*case.gone)).hang_up(case.call_id) is False
        with pytest.raises(ProviderError):
            await case.client(Carrier(500)).hang_up(case.call_id)
    else:
        with pytest.raises(ProviderError):  # False would say that the call is over
            await case.client(not_to_be_asked).hang_up(case.call_id)


@every_carrier
async def test_a_carrier_that_cannot_be_asked_never_says_that_it_knows_no_call(case: VoiceCase) -> None:
    """`None` is proof that nothing was dialled: another carrier is tried on it."""
    can_be_asked = case.client(not_to_be_asked).capabilities.can_be_asked
    questions: list[Callable[[Any], Any]] = [
        lambda client: client.look_up(case.call_id),
        lambda client: client.find_call(CALLEE, 1_767_225_600.0),
    ]
    if can_be_asked:
        assert await case.client(Carrier(*case.no_call)).look_up(case.call_id) is None
        assert await case.client(Carrier(200, NO_CALLS)).find_call(CALLEE, 1_767_225_600.0) is None
    for ask in questions:
        with pytest.raises(ProviderError):
            await ask(case.client(Carrier(500, b"oops") if can_be_asked else not_to_be_asked))
        if can_be_asked:
            with pytest.raises(ProviderError):
                await ask(case.client(failing(httpx.ReadTimeout("x"))))


@every_carrier
@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"null"])
async def test_junk_is_no_proof_where_nothing_else_would_be_heard_of_a_call(case: VoiceCase, body: bytes) -> None:
    can = case.client(not_to_be_asked).capabilities
    if can.can_be_asked and not can.silence_is_proof:
        with pytest.raises(ProviderError):
            await case.client(Carrier(200, body)).find_call(CALLEE, 1_767_225_600.0)


@every_carrier
async def test_an_id_of_a_call_cannot_lead_to_another_path(case: VoiceCase) -> None:
    can = case.client(not_to_be_asked).capabilities
    carrier = Carrier(*case.gone)
    if can.hangs_up:
        await case.client(carrier).hang_up("../../x?y#z")
    if can.can_be_asked:
        await case.client(carrier).look_up("../../x?y#z")
    for request in carrier.requests:
        assert b"../" not in request.url.raw_path
        assert b"?y" not in request.url.raw_path


# What it can do


@every_carrier
@pytest.mark.parametrize(
    ("ability", "wish"),
    [
        ("hides_caller_id", {"hide_caller_id": True}),
        ("detects_machines", {"machine_detection": MachineDetection.HANGUP}),
        ("limits_call", {"time_limit_seconds": 77}),
    ],
)
async def test_a_declared_ability_changes_the_request_and_no_other_one_does(
    case: VoiceCase, ability: str, wish: dict[str, Any]
) -> None:
    plain = await request_for(case, order_for(case))
    wished = await request_for(case, order_for(case, **wish))
    is_able = getattr(case.client(not_to_be_asked).capabilities, ability)
    assert (wished.content != plain.content) is is_able


async def told(case: VoiceCase, manner: Manner, **changes: Any) -> str:
    """What a carrier is told of a call, when it asks what to say, or when the call is placed."""
    client = case.client(not_to_be_asked)
    if client.capabilities.fetches_script:
        return client.render(WRITER.read_code(CODE, manner, reading=1), URLS).decode()
    script = WRITER.whole_call(CODE, manner)._replace(**changes)
    return (await request_for(case, replace(order_for(case), script=script))).content.decode()


@every_carrier
async def test_every_language_that_is_declared_can_be_spoken(case: VoiceCase) -> None:
    can = case.client(not_to_be_asked).capabilities
    assert can.languages
    assert len(set(can.languages)) == len(can.languages)
    for tag in filter(LANGUAGES.knows, can.languages):  # there are no sentences yet for the others
        assert LANGUAGES.choose(tag, CALLEE, can.languages) == tag
        if can.fetches_script:
            xml = await told(case, Manner(tag))
            assert tag in xml
            assert all(f">{escaped(word)}<" in xml for word in words_of(CODE, bare_language(tag)))
    assert LANGUAGES.choose("en-US", CALLEE, can.languages), "the default language"


@every_carrier
async def test_a_voice_is_another_one_where_it_can_be_chosen(case: VoiceCase) -> None:
    can = case.client(not_to_be_asked).capabilities
    female, male = [await told(case, Manner(can.languages[0], voice=voice)) for voice in ("female", "male")]
    assert (female != male) is can.chooses_voice
    assert can.chooses_voice or not can.voices


@every_carrier
def test_a_named_voice_speaks_its_own_language_only(case: VoiceCase) -> None:
    client = case.client(not_to_be_asked)
    can = client.capabilities
    for voice in can.voices:
        documents = [client.render((Speak("seven", tag, voice),), URLS).decode() for tag in can.languages]
        assert 1 <= sum(voice in document for document in documents) <= 2, voice
        assert all("seven" in document for document in documents), "another voice speaks the other languages"


@every_carrier
async def test_a_recording_is_played_where_that_is_declared_and_else_its_words_are_spoken(case: VoiceCase) -> None:
    client = case.client(not_to_be_asked)
    can = client.capabilities
    sound = PlayAudio("https://otp.example.com/audio/1.wav", 2, "Your very own code is")
    if can.fetches_script:
        sent = client.render((sound,), URLS).decode()
    else:
        sent = await told(case, Manner(can.languages[0]), code_prompt=sound)
    assert (sound.url in sent) is can.plays_audio
    assert (sound.text in sent) is not can.plays_audio


@every_carrier
async def test_keys_are_waited_for_before_the_code_where_that_is_declared(case: VoiceCase) -> None:
    client = case.client(not_to_be_asked)
    can = client.capabilities
    manner = Manner(can.languages[0], keys_first=2)
    if can.fetches_script:
        sent = client.render(WRITER.ask_for_keys("42", manner), URLS).decode()
        waits = 'numDigits="2"' in sent and 'finishOnKey="#"' in sent
    else:
        script = WRITER.whole_call(CODE, manner, ("42", "17"))
        sent = (await request_for(case, replace(order_for(case), script=script))).content.decode()
        waits = '"42"' in sent and '"17"' in sent
    assert waits is can.asks_for_keys


@every_carrier
async def test_no_more_replays_are_asked_for_than_are_declared(case: VoiceCase) -> None:
    can = case.client(not_to_be_asked).capabilities
    if can.fetches_script:
        return
    fewer, most = [
        await told(case, Manner(can.languages[0], max_replays=can.max_replays + change)) for change in (-1, 0)
    ]
    assert fewer != most


@every_carrier
def test_what_is_declared_of_reports_is_what_its_reports_tell(case: VoiceCase) -> None:
    can = case.client(not_to_be_asked).capabilities
    states = {report.state for report in case.reports.values()}
    assert can.reports_progress or not can.silence_is_proof
    if can.reports_progress:
        assert states >= {CallState.RINGING, CallState.ANSWERED}
    if not can.fetches_script:
        assert any(report.reading for report in case.reports.values()) is can.proves_speaking
    assert set(can.callback_methods) <= {"GET", "POST"}
    assert "POST" in can.callback_methods


# Callbacks


@pytest.mark.parametrize(
    ("case", "report"),
    [
        pytest.param(case, report, id=f"{case.name}, {name}")
        for case in VOICE_CASES.values()
        for name, report in case.reports.items()
    ],
)
def test_a_callback_says_where_the_call_is_however_often_it_comes(case: VoiceCase, report: Report) -> None:
    client = case.client(not_to_be_asked)
    event = client.parse_event(webhook_of(report.body), report.expected)
    assert (event.state, event.reading, event.digits) == (report.state, report.reading, report.digits)
    assert event.call_id in (case.call_id, ""), "of one without an id the token says which call it is"
    assert event.end_reason is None
    assert client.parse_event(webhook_of(report.body), report.expected) == event


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        pytest.param(case, reason, id=f"{case.name}, {reason.value if reason else 'ordinary'}")
        for case in VOICE_CASES.values()
        for reason in case.ends
    ],
)
def test_an_end_is_told_with_its_reason(case: VoiceCase, reason: EndReason | None) -> None:
    client = case.client(not_to_be_asked)
    expected = CallState.COMPLETED if client.capabilities.fetches_script else None
    event = client.parse_event(webhook_of(case.ends[reason]), expected)
    assert (event.state, event.end_reason) == (CallState.COMPLETED, reason)
    assert leaks_in(event.hangup_cause) == []
    assert client.parse_event(webhook_of(case.ends[reason]), expected) == event


@every_carrier
def test_every_reason_is_told_or_known_to_be_untold(case: VoiceCase) -> None:
    assert set(case.ends) | case.untold == REASONS
    assert not set(case.ends) & case.untold


GARBAGE = (
    b"", b"x", b"\xff\xfe", b"{}", b"[]", b"[{}]", b"null", b"7", b'"x"', b'{"event": ', b"[" * 100_000,
    b"=", b"&&&", b"a=1&a=1", b"CallUUID=../x", b'{"type": 1, "data": {}}', b'{"type": "x", "data": 7}',
    b'{"event": {"a": 1}}', b'{"result": "x"}', b'{"call-id": 5}', b"&".join(b"f%d=1" % n for n in range(500)),
)  # fmt: skip


def taken_for(client: VoiceProvider, body: bytes) -> CallEvent | None:
    """What a callback is taken for; None where it is refused."""
    expected = CallState.ANSWERED if client.capabilities.fetches_script else None
    try:
        return client.parse_event(webhook_of(body), expected)
    except WebhookRejected as refusal:
        check_refusal(refusal)
        return None


def check_refusal(refusal: WebhookRejected) -> None:
    assert 400 <= refusal.status < 500
    assert leaks_in(str(refusal)) == []


@every_carrier
@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:20]))
def test_garbage_says_nothing(case: VoiceCase, body: bytes) -> None:
    assert taken_for(case.client(not_to_be_asked), body) in (None, CallEvent(""))


@every_carrier
def test_a_callback_that_is_cut_off_or_altered_is_refused_or_read_and_never_an_accident(case: VoiceCase) -> None:
    client = case.client(not_to_be_asked)
    genuine = [*(report.body for report in case.reports.values()), *case.ends.values()]
    for body in genuine:
        for position in range(0, len(body), max(1, len(body) // 100)):
            for odd in (body[:position], body[:position] + b'\xff\x00"{&=' + body[position + 1 :]):
                event = taken_for(client, odd)
                assert event is None or leaks_in(event.hangup_cause) == []


@every_carrier
@pytest.mark.parametrize("policy", SignaturePolicy)
def test_a_signature_is_right_or_refused(case: VoiceCase, policy: SignaturePolicy) -> None:
    client = case.client(not_to_be_asked, webhook_signatures=policy)
    body = next(iter(case.ends.values()))
    with pytest.raises(WebhookRejected):  # where no token stands for the call
        client.check_webhook(webhook_of(body), must_be_signed=True)
    if case.signing is None:
        assert client.check_webhook(webhook_of(body)) is None
        return
    headers = case.signing(body)
    client.check_webhook(webhook_of(body, headers), must_be_signed=True)
    for name, value in headers.items():
        if "nonce" in name:
            continue
        for wrong in (value[:-3], value.swapcase(), "", "é" * len(value), f"{value}x"):
            with pytest.raises(WebhookRejected) as refused:
                client.check_webhook(webhook_of(body, {**headers, name: wrong}))
            assert refused.value.status == 403
            assert secrets_in(case, str(refused.value)) == []
    if policy is SignaturePolicy.REQUIRED:
        with pytest.raises(WebhookRejected):
            client.check_webhook(webhook_of(body))


# Text messages


async def sms_error_of(case: SmsCase, vendor: Vendor) -> ProviderError:
    asked = []

    def counting(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return vendor(request)

    with pytest.raises(ProviderError) as raised:
        await case.client(counting).send_message(case.order)
    assert len(asked) == 1, "a message is never sent twice, whatever the answer"
    assert secrets_in(case, str(raised.value)) == []
    return raised.value


@every_texter
async def test_a_message_is_one_request(case: SmsCase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="root")
    keep_secret(case.reference)
    carrier = Carrier(200, case.accepted)
    client = case.client(carrier)
    assert await client.send_message(case.order) == case.message_id
    (request,) = carrier.requests
    assert request.method == "POST"
    assert CALLEE[1:] in request.content.decode()
    assert case.order.text in json.dumps(json.loads(request.content))
    assert secrets_in(case, f"{request.url} {caplog.text} {case.order!r}".replace(CALLEE, "")) == []
    assert secrets_in(case, repr(client)) == []


@every_texter
@pytest.mark.parametrize("status", REFUSED)
async def test_a_refused_message_was_not_sent(case: SmsCase, status: int) -> None:
    assert type(await sms_error_of(case, Carrier(status, case.refusals[status]))) is case.own_words.get(
        status, REFUSED[status]
    )


@every_texter
async def test_a_message_of_which_nothing_is_known_may_have_been_sent(case: SmsCase) -> None:
    assert type(await sms_error_of(case, Carrier(500, case.refusals[500]))) is case.own_words.get(
        500, ProviderUnavailable
    )
    for status, body in ((502, b"<html>"), (200, b"junk"), (200, b"{}"), (302, b""), (408, b"")):
        assert type(await sms_error_of(case, Carrier(status, body))) is CallOutcomeUnknown, (status, body)
    assert type(await sms_error_of(case, failing(httpx.ConnectError("x")))) is ProviderUnavailable
    assert type(await sms_error_of(case, failing(httpx.ReadTimeout("x")))) is CallOutcomeUnknown


@every_texter
def test_a_report_says_where_the_message_is_however_often_it_comes(case: SmsCase) -> None:
    client = case.client(not_to_be_asked)
    for state, body in case.reports.items():
        report = client.parse_report(webhook_of(body))
        assert report is not None
        assert (report.message_id, report.state) == (case.message_id, state)
        assert leaks_in(report.cause) == []
        assert client.parse_report(webhook_of(body)) == report


@every_texter
@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:20]))
def test_garbage_is_no_report(case: SmsCase, body: bytes) -> None:
    try:
        report = case.client(not_to_be_asked).parse_report(webhook_of(body))
    except WebhookRejected as refusal:
        check_refusal(refusal)
    else:
        assert report is None or report.state is None


@every_texter
def test_a_signed_report_is_right_or_refused(case: SmsCase) -> None:
    client = case.client(not_to_be_asked)
    body = next(iter(case.reports.values()))
    if case.signing is None:
        client.check_report(webhook_of(body))
        assert not client.signs_reports
        assert client.reference_of(webhook_of(body)) == case.reference, "a token must stand for the signature"
        return
    headers = case.signing(body)
    client.check_report(webhook_of(body, headers))
    name = next(name for name in headers if "nonce" not in name)
    with pytest.raises(WebhookRejected):
        client.check_report(webhook_of(body, {**headers, name: headers[name].swapcase()}))
    with pytest.raises(WebhookRejected):
        client.check_report(webhook_of(body))
