"""What your backend sends and is answered: checked on the way in, described in the OpenAPI document."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from call_placer import Sent
from number_page import Outcome
from phone_numbers import InvalidPhone, to_e164
from verification import VERIFICATION_ID, Call, Message, Mode, Status, Verification

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

LANGUAGE_WORDS = "a BCP 47 language tag such as en-GB; default: the language of the number's region"
LANGUAGE_PATTERN = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$"
VOICE_WORDS = "female, male, or the name of a carrier's voice; default: the prompt set's, or the carrier's"
VOICE_PATTERN = "^[A-Za-z][A-Za-z0-9._:-]{0,63}$"

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
    language: str | None = Field(None, description=LANGUAGE_WORDS, pattern=LANGUAGE_PATTERN, examples=["en-GB"])
    prompts: str | None = Field(
        None,
        description="the name of a configured set of prompts",
        pattern="^[a-z0-9_-]{1,32}$",
        examples=["default"],
    )
    voice: str | None = Field(None, description=VOICE_WORDS, pattern=VOICE_PATTERN, examples=["female"])
    channel: str = Field("voice", description="voice or sms", pattern="^(voice|sms)$", examples=["voice"])
    mode: str = Field(
        "speak",
        description="speak, or keypad: the callee types on the phone what your app shows",
        pattern="^(speak|keypad)$",
        examples=["speak"],
    )
    code: Code | None = Field(None, description=CODE_WORDS, examples=["610389"])
    code_length: int | None = Field(None, description="a whole number from 4 to 10, default 6", ge=4, le=10)
    ttl_seconds: int | None = Field(None, description="a whole number from 30 to 600", ge=30, le=600)
    max_replays: int = Field(3, description="a whole number from 0 to 3", ge=0, le=3)
    auto_replay: bool | None = Field(
        None, description="true or false: whether the replays come without a key press; default: AUTO_REPLAY"
    )
    require_keypress: bool | None = Field(
        None, description="true or false: whether keys come before the code; default: REQUIRE_KEYPRESS"
    )
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


class SendAlert(_Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"phone": _EXAMPLE_PHONE, "template": "delivery", "fields": {"minutes": 20}}]
        }
    )

    phone: Phone = Field(description=PHONE_WORDS, examples=[_EXAMPLE_PHONE])
    template: str = Field(
        description="the name of a configured template", pattern="^[a-z0-9_-]{1,32}$", examples=["delivery"]
    )
    fields: dict[str, str | int] = Field(
        default_factory=dict,
        description="an object with a text or a whole number for each field of the template",
        max_length=20,
    )
    language: str | None = Field(None, description=LANGUAGE_WORDS, pattern=LANGUAGE_PATTERN, examples=["en-GB"])
    prompts: str | None = Field(
        None,
        description="the name of a configured set of prompts",
        pattern="^[a-z0-9_-]{1,32}$",
        examples=["default"],
    )
    voice: str | None = Field(None, description=VOICE_WORDS, pattern=VOICE_PATTERN, examples=["female"])
    ttl_seconds: int | None = Field(None, description="a whole number from 30 to 600", ge=30, le=600)
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
    language: str = Field(examples=["en-US"], description="that is spoken, or written")
    code: str | None = Field(
        None, description="in keypad mode, what your app shows, as long as it can be right; never otherwise"
    )
    expires_in: int = Field(examples=[300], description="seconds")
    max_attempts: int = Field(examples=[5])
    resend_after: int = Field(examples=[30], description="seconds to wait before offering another call")
    fallback_available: bool = Field(examples=[False], description="whether the code can be sent by SMS instead")
    from_: str = Field(alias="from", examples=["+12025550100"])
    deduplicated: bool | None = Field(None, description="true: a call was live already, no second one was placed")
    reference: str | None = Field(None, examples=["order-4711"])


class AlertInitiated(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    status: str = Field(
        examples=["call_initiated"], description="call_initiated; with 202 queued or call_unconfirmed"
    )
    verification_id: str = Field(examples=[_EXAMPLE_ID], description="by which /otp-status tells of the alert")
    phone: str = Field(examples=[_EXAMPLE_PHONE])
    call_uuid: str | None = Field(None, examples=[_EXAMPLE_CALL_ID], description="the carrier's id of the call")
    provider: str = Field(examples=["vobiz"])
    channel: str = Field(examples=["voice"])
    language: str = Field(examples=["en-US"], description="that is spoken")
    expires_in: int = Field(examples=[300], description="seconds for which the alert can still be told")
    from_: str = Field(alias="from", examples=["+12025550100"])
    deduplicated: bool | None = Field(
        None, description="true: a call with the same alert was live already, no second one was placed"
    )
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
    language: str = Field(examples=["en-US"])
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
    mode: Mode = Field(examples=["speak"], description="speak, keypad or alert")
    status: Status = Field(examples=["delivered"])
    acknowledged: bool | None = Field(None, description="of an alert: whether the callee pressed the key")
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


def status_word(sent: Sent) -> str:
    if sent.is_queued:
        return "queued"
    if sent.call is None:
        return "message_sent" if sent.is_confirmed else "message_unconfirmed"
    return "call_initiated" if sent.is_confirmed else "call_unconfirmed"


def sent_reply(sent: Sent, seconds_left: int, resend_after_seconds: int, *, can_text: bool) -> CallInitiated:
    record = sent.record
    way = sent.call or record.message
    assert way is not None  # noqa: S101 - a code is sent as a call or as a message
    return CallInitiated(
        status=status_word(sent),
        verification_id=record.id,
        phone=record.phone,
        call_uuid=sent.call.call_id or None if sent.call else None,
        message_uuid=record.message.message_id or None if record.message and not sent.call else None,
        provider=way.provider,
        channel="voice" if sent.call else "sms",
        language=way.language,
        expires_in=seconds_left,
        max_attempts=record.max_attempts,
        resend_after=resend_after_seconds,
        fallback_available=can_text and sent.call is not None,
        from_=way.from_number,
        deduplicated=sent.is_duplicate or None,
        reference=record.reference,
    )


def alert_reply(sent: Sent, seconds_left: int) -> AlertInitiated:
    call = sent.call
    assert call is not None  # noqa: S101 - an alert is a call
    return AlertInitiated(
        status=status_word(sent),
        verification_id=sent.record.id,
        phone=sent.record.phone,
        call_uuid=call.call_id or None,
        provider=call.provider,
        channel="voice",
        language=call.language,
        expires_in=seconds_left,
        from_=call.from_number,
        deduplicated=sent.is_duplicate or None,
        reference=sent.record.reference,
    )


def status_of(record: Verification, seconds_left: int) -> OtpStatus:
    return OtpStatus(
        verification_id=record.id,
        phone=record.phone,
        mode=record.mode,
        status=record.status,
        acknowledged=record.is_acknowledged if record.mode is Mode.ALERT else None,
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
        language=call.language,
        times_spoken=call.times_spoken,
    )


def _iso(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
