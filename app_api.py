"""Routes that your backend calls: /send-otp, /verify-otp, /otp-status, /cancel-otp."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.routing import BaseRoute

import problems
from abuse_guard import SendingStopped
from call_placer import Sent
from lean_route import LeanRequest, LeanRoute, Reply, json_reply
from number_failures import NumberLocked
from otp_service import OtpService
from otp_store import Checked, Outcome
from phone_numbers import InvalidPhone, mask, to_e164
from problems import FieldError, Problem, problem_of, rate_limit_headers
from protection import Protection
from send_order import SendOrder, UnsupportedOption
from settings import Settings
from verification import VERIFICATION_ID, Call, Message, Status, Verification, short_id

_EXAMPLE_PHONE = "+14155550100"
_EXAMPLE_ID = "vrf_3f9a1c64b08e4d27a5c1f0e2d7b6a894"
_EXAMPLE_CALL_ID = "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"


def _canonical_phone(text: str) -> str:
    try:
        return to_e164(text)
    except InvalidPhone as error:
        raise ValueError(str(error)) from None


# A field's description is also what a refused value is answered with: "<field> must be <description>".
PHONE_WORDS = "a phone number in E.164, for example +14155550100"
CODE_WORDS = "4 to 10 characters of 0-9 and A-Z"
ID_WORDS = "the verification_id that /send-otp gave"

Phone = Annotated[str, AfterValidator(_canonical_phone), Field(max_length=41)]
Code = Annotated[str, Field(pattern="^[0-9A-Z]{4,10}$")]
PhoneOrId = Annotated[
    str, Path(description="a phone number in E.164, or a verification_id", examples=[_EXAMPLE_PHONE])
]
VerificationId = Annotated[str, Field(pattern=f"^{VERIFICATION_ID.pattern}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    def __repr__(self) -> str:  # requests hold codes and numbers
        return f"{type(self).__name__}(...)"


class SendOtp(_Request):
    model_config = ConfigDict(json_schema_extra={"examples": [{"phone": _EXAMPLE_PHONE}]})

    phone: Phone = Field(description=PHONE_WORDS, examples=[_EXAMPLE_PHONE])
    language: str | None = Field(
        None,
        description="a BCP 47 language tag such as en-GB; default: the language of the number's region",
        pattern="^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$",
        examples=["en-GB"],
    )
    channel: str = Field("voice", description="voice or sms", pattern="^(voice|sms)$", examples=["voice"])
    mode: str = Field("speak", description="speak or keypad", pattern="^(speak|keypad)$", examples=["speak"])
    code: Code | None = Field(None, description=CODE_WORDS, examples=["610389"])
    code_length: int | None = Field(None, description="a whole number from 4 to 10, default 6", ge=4, le=10)
    ttl_seconds: int | None = Field(None, description="a whole number from 30 to 600", ge=30, le=600)
    max_replays: int = Field(3, description="a whole number from 0 to 3", ge=0, le=3)
    hide_caller_id: bool = Field(False, description="true or false: whether the callee sees no number")
    provider: str | None = Field(
        None, description="the name of a configured provider", pattern="^[a-z]{1,20}$", examples=["vobiz"]
    )
    reference: str | None = Field(
        None,
        description="up to 64 characters of A-Z a-z 0-9 . _ : -",
        pattern="^[A-Za-z0-9._:-]{1,64}$",
        examples=["order-4711"],
    )


class _PhoneOrId(_Request):
    phone: Phone | None = Field(None, description=PHONE_WORDS, examples=[_EXAMPLE_PHONE])
    verification_id: VerificationId | None = Field(None, description=ID_WORDS, examples=[_EXAMPLE_ID])

    @model_validator(mode="after")
    def _names_one(self) -> "_PhoneOrId":
        if (self.phone is None) == (self.verification_id is None):
            raise ValueError("give either phone or verification_id")
        return self

    @property
    def key(self) -> str:
        return self.verification_id or self.phone or ""


class VerifyOtp(_PhoneOrId):
    model_config = ConfigDict(json_schema_extra={"examples": [{"phone": _EXAMPLE_PHONE, "otp": "610389"}]})

    otp: Code = Field(description=CODE_WORDS, examples=["610389"])


class CancelOtp(_PhoneOrId):
    model_config = ConfigDict(json_schema_extra={"examples": [{"phone": _EXAMPLE_PHONE}]})


class CallInitiated(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    status: str = Field(
        examples=["call_initiated"],
        description="call_initiated or message_sent; with 202 queued, call_unconfirmed or message_unconfirmed",
    )
    verification_id: str = Field(examples=[_EXAMPLE_ID])
    phone: str = Field(examples=[_EXAMPLE_PHONE])
    call_uuid: str | None = Field(None, examples=[_EXAMPLE_CALL_ID], description="the carrier's id of the call")
    message_uuid: str | None = Field(None, description="the carrier's id of the text message, if it names one")
    provider: str = Field(examples=["vobiz"])
    channel: str = Field(examples=["voice"], description="voice or sms")
    language: str = Field(examples=["en-US"])
    expires_in: int = Field(examples=[300], description="seconds")
    max_attempts: int = Field(examples=[5])
    resend_after: int = Field(examples=[30], description="seconds to wait before offering another call")
    fallback_available: bool = Field(examples=[False], description="whether the code can be sent by SMS instead")
    from_: str = Field(alias="from", examples=["+12025550100"])
    deduplicated: bool | None = Field(None, description="true: a call was live already, no second one was placed")
    reference: str | None = Field(None, examples=["order-4711"])


class Verified(BaseModel):
    valid: bool = Field(examples=[True])
    verification_id: str = Field(examples=[_EXAMPLE_ID])
    phone: str = Field(examples=[_EXAMPLE_PHONE])


class NotVerified(BaseModel):
    valid: bool = Field(examples=[False])
    reason: Outcome = Field(examples=["incorrect"])
    attempts_left: int = Field(examples=[4])


class CallStatus(BaseModel):
    call_uuid: str | None = Field(None, examples=[_EXAMPLE_CALL_ID])
    state: str = Field(examples=["completed"])
    end_reason: str | None = Field(None, examples=["answered_and_spoken"])
    hangup_cause: str | None = Field(
        None, examples=["NORMAL_CLEARING 4000"], description="the carrier's own words"
    )
    ring_seconds: int | None = Field(None, examples=[7])
    talk_seconds: int | None = Field(None, examples=[31])
    times_spoken: int = Field(examples=[1], description="how often the code was read to its end")


class MessageStatus(BaseModel):
    message_uuid: str | None = Field(None, description="the carrier's id of the text message")
    provider: str = Field(examples=["plivo"])
    state: str = Field(examples=["delivered"], description="queued, sent, delivered or undelivered")
    cause: str | None = Field(None, examples=["delivered 000"], description="the carrier's own words")


class TimelineEvent(BaseModel):
    at: str = Field(examples=["2026-03-01T09:30:00.125Z"])
    event: str = Field(examples=["ringing"])


class OtpStatus(BaseModel):
    verification_id: str = Field(examples=[_EXAMPLE_ID])
    phone: str = Field(examples=[_EXAMPLE_PHONE])
    status: Status = Field(examples=["delivered"])
    channel: str = Field(examples=["voice"])
    provider: str | None = Field(None, examples=["vobiz"])
    attempts_left: int = Field(examples=[5])
    expires_in: int = Field(examples=[241], description="seconds; 0 once the code can no longer be right")
    call: CallStatus | None = None
    message: MessageStatus | None = None
    timeline: list[TimelineEvent]
    reference: str | None = Field(None, examples=["order-4711"])


class Cancelled(BaseModel):
    status: Status = Field(
        examples=["cancelled"], description="an ended one keeps its status; only its call is ended"
    )
    verification_id: str = Field(examples=[_EXAMPLE_ID])
    phone: str = Field(examples=[_EXAMPLE_PHONE])
    call_hung_up: bool = Field(examples=[True], description="whether a live call was ended")


_Answers = dict[int, tuple[str, type[BaseModel]]]


def routes(service: OtpService, protection: Protection, settings: Settings) -> list[BaseRoute]:
    """The backend's routes, in the order in which it needs them: a reader of /docs sees them so."""

    async def verify_otp(request: LeanRequest, body: VerifyOtp) -> Reply:
        """Check what the user typed. Each check of a live code uses up one attempt."""
        _note_key(request, body.key)
        if settings.require_verification_id and body.verification_id is None:
            message = "is required: codes are checked by the id that /send-otp gave"
            raise Problem(
                422,
                "invalid_request",
                f"verification_id {message}",
                errors=[FieldError("verification_id", message)],
            )
        checked = await service.verify(request.caller, body.key, body.otp)
        _note_outcome(request, checked)
        return _verify_reply(checked)

    async def otp_status(request: LeanRequest, phone: PhoneOrId) -> Reply:
        """What is known of the newest verification of a number, or of the one with this id."""
        key = _key_of(phone)
        _note_key(request, key)
        record = await service.status(request.caller.client, key)
        if record is None:
            raise Problem(404, "not_found", "no verification is known for this number or id")
        _note_record(request, record)
        return json_reply(200, _status_of(record, service.seconds_left(record)), with_nulls=True)

    async def send_otp(request: LeanRequest, body: SendOtp) -> Reply:
        """Call a phone and read it a one-time code, or send the code as a text message.

        Carriers are asked in their order, the next one where nothing was dialled; `provider` pins one.
        While a call to the number is queued, ringing or speaking, that same call is returned with
        `deduplicated`. A resend within the lifetime reads the same code and keeps its deadline and attempts.
        With an `Idempotency-Key` header the same request sent again gets the same answer for 24 hours.
        """
        client = request.caller.client
        _note_key(request, body.phone)

        async def send() -> tuple[int, bytes]:
            reply = await _send(service, settings, request, body)
            return reply.status, reply.body

        key = _idempotency_key(request)
        if key is None:
            status, answer = await send()
            headers = {}
        else:
            request_text = body.model_dump_json()
            status, answer, is_replay = await protection.idempotency.run_once(client, key, request_text, send)
            headers = {"idempotent-replayed": "true"} if is_replay else {}
            if is_replay:
                request.notes["outcome"] = "replayed"
        return Reply(
            status, answer, headers={**headers, **rate_limit_headers(await protection.guard.quota(client))}
        )

    async def cancel_otp(request: LeanRequest, body: CancelOtp) -> Reply:
        """Make a code worthless and hang up its call."""
        _note_key(request, body.key)
        cancelled = await service.cancel(request.caller.client, body.key)
        if cancelled is None:
            raise Problem(404, "not_found", "no running verification is known for this number or id")
        record, was_hung_up = cancelled
        _note_record(request, record)
        answer = Cancelled(
            status=record.status, verification_id=record.id, phone=record.phone, call_hung_up=was_hung_up
        )
        return json_reply(200, answer)

    def route(
        path: str,
        endpoint: Any,
        method: str,
        answers: _Answers,
        *errors: int,
        examples: Sequence[Problem] = (),
        **more: Any,
    ) -> LeanRoute:
        described = problems.responses(401, *errors, examples=examples)
        for status, (meaning, model) in answers.items():  # where a problem has the status, too, it is either
            also = described.get(status, {})
            described[status] = {**also, "description": meaning, "model": model}
        return LeanRoute(
            path,
            endpoint,
            methods=[method],
            tags=["backend"],
            responses=described,
            access=protection.clients,
            **more,
        )

    initiated: _Answers = {
        200: ("the phone is called, or a text message is on its way", CallInitiated),
        202: ("it waits for its turn, or its carrier did not answer in time: ask the status", CallInitiated),
    }
    checked: _Answers = {
        200: ("the code is right, and used up", Verified),
        400: ("the code is not right (`valid` is false), or this is no request", NotVerified),
    }
    known: _Answers = {200: ("what is known", OtpStatus)}
    cancelled: _Answers = {200: ("the code is worthless", Cancelled)}
    stopped, locked = problem_of(SendingStopped(())), problem_of(NumberLocked(60))
    return [
        route(
            "/send-otp",
            send_otp,
            "POST",
            initiated,
            *(400, 403, 409, 413, 415, 422, 429, 500, 502, 503),
            examples=[stopped],
            openapi_extra={"parameters": [_IDEMPOTENCY_KEY]},
        ),
        route("/verify-otp", verify_otp, "POST", checked, 400, 413, 415, 422, 429, 503, examples=[locked]),
        route("/otp-status/{phone}", otp_status, "GET", known, 404, 422, 429, 503),
        route("/cancel-otp", cancel_otp, "POST", cancelled, 400, 404, 413, 415, 422, 429, 503),
    ]


_KEY_WORDS = "1 to 255 visible ASCII characters"
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": f"{_KEY_WORDS}, new for each new request",
    "schema": {
        "type": "string",
        "pattern": "^[!-~]{1,255}$",
        "examples": ["8e03978e-40d5-43e8-bc93"],
    },
}
_VISIBLE = re.compile(rb"[!-~]{1,255}")


def _idempotency_key(request: LeanRequest) -> str | None:
    given = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    if len(given) > 1 or not _VISIBLE.fullmatch(given[0]):
        raise Problem(
            400, "invalid_request", "Idempotency-Key must be 1 to 255 visible ASCII characters, given once"
        )
    return str(given[0], "ascii")


async def _send(service: OtpService, settings: Settings, request: LeanRequest, body: SendOtp) -> Reply:
    try:
        sent = await service.send(_order_of(request.caller.client, body, settings))
    except UnsupportedOption as error:
        errors = [FieldError(error.field, error.message)]
        raise Problem(422, "unsupported_option", str(error), errors=errors) from None
    _note_record(request, sent.record)
    request.notes["outcome"] = _outcome_of(sent)
    can_text = service.can_text(sent.record.phone)
    reply = _sent_reply(sent, service.seconds_left(sent.record), settings, can_text=can_text)
    is_on_its_way = sent.is_confirmed and not sent.is_queued
    return json_reply(200 if is_on_its_way else 202, reply)


def _outcome_of(sent: Sent) -> str:
    if sent.is_duplicate:
        return "deduplicated"
    if sent.is_queued:
        return "queued"
    return "called" if sent.is_confirmed else "unconfirmed"


def _note_key(request: LeanRequest, key: str) -> None:
    """Name a request's number or verification in its log line, without giving it away."""
    request.notes.update({"verification": short_id(key)} if key.startswith("vrf_") else {"phone": mask(key)})


def _note_record(request: LeanRequest, record: Verification) -> None:
    request.notes["verification"] = short_id(record.id)
    request.notes["phone"] = mask(record.phone)
    request.notes["verification_status"] = record.status.value


def _note_outcome(request: LeanRequest, checked: Checked) -> None:
    request.notes["outcome"] = checked.outcome.value
    if checked.record is not None:
        _note_record(request, checked.record)


def _key_of(path_value: str) -> str:
    if VERIFICATION_ID.fullmatch(path_value):
        return path_value
    try:
        return to_e164(path_value)
    except InvalidPhone as error:
        raise Problem(422, "invalid_phone", f"phone {error}", errors=[FieldError("phone", str(error))]) from None


def _order_of(client: str, body: SendOtp, settings: Settings) -> SendOrder:
    if body.mode != "speak":
        raise UnsupportedOption("mode", "keypad is not available; use speak")
    if body.code is not None and body.code_length not in (None, len(body.code)):
        raise UnsupportedOption("code_length", "does not fit the code: leave it out when you bring a code")
    code_length = body.code_length or (len(body.code) if body.code else 6)
    if code_length < 6 and not settings.allow_short_codes:
        field = "code" if body.code else "code_length"
        raise UnsupportedOption(field, "must have at least 6 characters unless ALLOW_SHORT_CODES is set")
    return SendOrder(
        client=client,
        phone=body.phone,
        channel=body.channel,
        language=body.language,
        code=body.code,
        code_length=code_length,
        ttl_seconds=body.ttl_seconds or settings.code_ttl_seconds,
        max_replays=body.max_replays,
        hide_caller_id=body.hide_caller_id,
        provider=body.provider,
        reference=body.reference,
    )


def _status_word(sent: Sent) -> str:
    if sent.is_queued:
        return "queued"
    if sent.call is None:
        return "message_sent" if sent.is_confirmed else "message_unconfirmed"
    return "call_initiated" if sent.is_confirmed else "call_unconfirmed"


def _sent_reply(sent: Sent, seconds_left: int, settings: Settings, *, can_text: bool) -> CallInitiated:
    record = sent.record
    way = sent.call or record.message
    assert way is not None  # noqa: S101 - a code is sent as a call or as a message
    return CallInitiated(
        status=_status_word(sent),
        verification_id=record.id,
        phone=record.phone,
        call_uuid=sent.call.call_id or None if sent.call else None,
        message_uuid=record.message.message_id or None if record.message and not sent.call else None,
        provider=way.provider,
        channel="voice" if sent.call else "sms",
        language=way.language,
        expires_in=seconds_left,
        max_attempts=record.max_attempts,
        resend_after=settings.resend_after_seconds,
        fallback_available=can_text and sent.call is not None,
        from_=way.from_number,
        deduplicated=sent.is_duplicate or None,
        reference=record.reference,
    )


def _verify_reply(checked: Checked) -> Reply:
    outcome, record = checked
    if outcome is Outcome.CORRECT and record is not None:
        return json_reply(200, Verified(valid=True, verification_id=record.id, phone=record.phone))
    # Attempts are told only for a code that can still be right.
    attempts_left = record.attempts_left if record is not None and outcome is Outcome.INCORRECT else 0
    return json_reply(400, NotVerified(valid=False, reason=outcome, attempts_left=attempts_left))


def _status_of(record: Verification, seconds_left: int) -> OtpStatus:
    return OtpStatus(
        verification_id=record.id,
        phone=record.phone,
        status=record.status,
        channel=record.channel,
        provider=_provider_of(record),
        attempts_left=record.attempts_left,
        expires_in=seconds_left,
        call=_call_status(record.call) if record.call else None,
        message=_message_status(record.message) if record.message else None,
        timeline=[TimelineEvent(at=_iso(at), event=event) for at, event in record.timeline()],
        reference=record.reference,
    )


def _provider_of(record: Verification) -> str | None:
    way = record.message if record.channel == "sms" else record.call
    return way.provider if way else None


def _message_status(message: Message) -> MessageStatus:
    return MessageStatus(
        message_uuid=message.message_id or None,
        provider=message.provider,
        state=message.state.value,
        cause=message.cause or None,
    )


def _call_status(call: Call) -> CallStatus:
    return CallStatus(
        call_uuid=call.call_id or None,
        state=call.state.value,
        end_reason=call.end_reason.value if call.end_reason else None,
        hangup_cause=call.hangup_cause or None,
        ring_seconds=call.ring_seconds,
        talk_seconds=call.talk_seconds,
        times_spoken=call.times_spoken,
    )


def _iso(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
