"""Routes that your backend calls: /send-otp, /verify-otp, /otp-status, /cancel-otp, /send-alert."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from starlette.routing import BaseRoute

import problems
from abuse_guard import SendingStopped
from app_models import (
    AlertInitiated,
    CallInitiated,
    Cancelled,
    CancelOtp,
    NotVerified,
    OtpStatus,
    PhoneOrId,
    SendAlert,
    SendOtp,
    Verified,
    VerifyOtp,
    alert_reply,
    sent_reply,
    status_of,
)
from call_placer import Sent
from lean_route import LeanRequest, LeanRoute, Reply, json_reply
from number_failures import NumberLocked
from number_page import Checked, Outcome
from order_rules import OrderRules
from otp_service import OtpService
from phone_numbers import InvalidPhone, mask, to_e164
from problems import FieldError, Problem, problem_of, rate_limit_headers
from protection import Protection
from send_order import SendOrder, UnsupportedOption
from settings import Settings
from verification import VERIFICATION_ID, Mode, Verification, short_id

_Answers = dict[int, tuple[str, type[BaseModel]]]


def routes(service: OtpService, protection: Protection, rules: OrderRules, settings: Settings) -> list[BaseRoute]:
    """The backend's routes, in the order in which it needs them: a reader of /docs sees them so."""

    async def verify_otp(request: LeanRequest, body: VerifyOtp) -> Reply:
        """Check what the user typed. Each check of a live code uses up one attempt.

        With an `Idempotency-Key` header the last check sent again has the same outcome, and uses up none: send it
        again after a 503 or a lost answer, which leave open whether the code was checked.
        """
        _note_key(request, body.key)
        if settings.require_verification_id and body.verification_id is None:
            message = "is required: codes are checked by the id that /send-otp gave"
            raise Problem(
                422,
                "invalid_request",
                f"verification_id {message}",
                errors=[FieldError("verification_id", message)],
            )
        checked = await service.verify(request.caller, body.key, body.otp, _idempotency_key(request) or "")
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
        return json_reply(200, status_of(record, service.seconds_left(record)), with_nulls=True)

    async def send_otp(request: LeanRequest, body: SendOtp) -> Reply:
        """Call a phone and read it a one-time code, or send the code as a text message.

        Carriers are asked in their order, the next one where nothing was dialled; `provider` pins one.
        While a call to the number is queued, ringing or speaking, that same call is returned with
        `deduplicated`. A resend within the lifetime reads the same code and keeps its deadline and attempts.
        With an `Idempotency-Key` header the same request sent again gets the same answer for 24 hours.
        """

        async def send() -> Reply:
            sent = await _place(service, protection, request, rules.code_order(request.caller.client, body))
            can_text = service.can_text(sent.record.phone)
            seconds_left = service.seconds_left(sent.record)
            answer = sent_reply(sent, seconds_left, settings.resend_after_seconds, can_text=can_text)
            return json_reply(_status_of_sending(sent), answer)

        reply = await _send_once(protection, request, body, send)
        is_shown = body.mode == Mode.KEYPAD and body.code is None and reply.status < 300
        return await _with_code(reply) if is_shown else reply

    async def _with_code(reply: Reply) -> Reply:
        """Answers are kept for their Idempotency-Key, so the code that the app shows is no part of them."""
        answer = CallInitiated.model_validate_json(reply.body)
        answer.code = await service.code_to_show(answer.verification_id)
        return reply._replace(body=json_reply(reply.status, answer).body)

    async def send_alert(request: LeanRequest, body: SendAlert) -> Reply:
        """Call a phone and tell it something: a template that the operator wrote, with values of yours.

        The same limits, carriers and status as for codes. A template may ask for a key press to have it
        acknowledged; `/otp-status/{verification_id}` says whether it was.
        """

        async def send() -> Reply:
            sent = await _place(service, protection, request, rules.alert_order(request.caller.client, body))
            return json_reply(_status_of_sending(sent), alert_reply(sent, service.seconds_left(sent.record)))

        return await _send_once(protection, request, body, send)

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
    alerted: _Answers = {
        200: ("the phone is called", AlertInitiated),
        202: ("it waits for its turn, or its carrier did not answer in time: ask the status", AlertInitiated),
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
        route(
            "/verify-otp",
            verify_otp,
            "POST",
            checked,
            *(400, 409, 413, 415, 422, 429, 503),
            examples=[locked],
            openapi_extra={"parameters": [_IDEMPOTENCY_KEY]},
        ),
        route("/otp-status/{phone}", otp_status, "GET", known, 404, 422, 429, 503),
        route(
            "/send-alert",
            send_alert,
            "POST",
            alerted,
            *(400, 403, 409, 413, 415, 422, 429, 500, 502, 503),
            examples=[stopped],
            openapi_extra={"parameters": [_IDEMPOTENCY_KEY]},
        ),
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


async def _send_once(
    protection: Protection,
    request: LeanRequest,
    body: SendOtp | SendAlert,
    send: Callable[[], Awaitable[Reply]],
) -> Reply:
    """Send, or give the answer of the request with the same Idempotency-Key; and the client's quota."""
    client = request.caller.client
    _note_key(request, body.phone)

    async def run() -> tuple[int, bytes]:
        try:
            reply = await send()
        except UnsupportedOption as error:
            errors = [FieldError(error.field, error.message)]
            raise Problem(422, "unsupported_option", str(error), errors=errors) from None
        return reply.status, reply.body

    key = _idempotency_key(request)
    headers = {}
    if key is None:
        status, answer = await run()
    else:
        request_text = f"{type(body).__name__} {body.model_dump_json()}"
        status, answer, is_replay = await protection.idempotency.run_once(client, key, request_text, run)
        if is_replay:
            headers = {"idempotent-replayed": "true"}
            request.notes["outcome"] = "replayed"
    return Reply(status, answer, headers={**headers, **rate_limit_headers(await protection.guard.quota(client))})


async def _place(service: OtpService, protection: Protection, request: LeanRequest, order: SendOrder) -> Sent:
    if key := _idempotency_key(request):
        order = replace(order, mark=protection.idempotency.mark(order.client, key))
    sent = await service.send(order)
    _note_record(request, sent.record)
    request.notes["outcome"] = _outcome_of(sent)
    return sent


def _status_of_sending(sent: Sent) -> int:
    return 200 if sent.is_confirmed and not sent.is_queued else 202


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


def _verify_reply(checked: Checked) -> Reply:
    outcome, record = checked
    if outcome is Outcome.CORRECT and record is not None:
        return json_reply(200, Verified(valid=True, verification_id=record.id, phone=record.phone))
    # Attempts are told only for a code that can still be right.
    attempts_left = record.attempts_left if record is not None and outcome is Outcome.INCORRECT else 0
    return json_reply(400, NotVerified(valid=False, reason=outcome, attempts_left=attempts_left))
