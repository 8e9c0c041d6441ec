"""The simulated CM.com: account, and the API of its voice app "OTP".

Documented on https://developers.cm.com/voice/reference/post_voiceapi-v2-otp: fields, ranges, 401. Inferred: 400
for what is out of range, `message` in it, every other status, and that unknown fields are refused, which finds
typing errors. Enums are taken as words and as numbers: CM.com's own SDK sends numbers.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from simulator import cm_messages
from simulator.callees import ApiTrouble
from simulator.clock import SimulatorClock
from simulator.cm_account import CmAccount
from simulator.cm_call import CallbackHabits, CmCall, OtpRequest, Prompt, PromptType
from simulator.cm_messages import MessageGateway
from simulator.network import Carrier, LimitReached
from simulator.phone import PhoneExchange
from simulator.rest import NotAnObject, json_object, wait_for_disconnect

GATEWAY_PATH = "/gateway/v1.0"  # a host of its own in reality, with the version as its path
ANONYMOUS = "anonymous"
DEFAULT_RING_SECONDS = 60
LONGEST_CALL_SECONDS = 3600.0  # not found; some network would end it
PROMPT_NAMES = ("intro", "code", "replay", "outro")

_NUMBER = re.compile(r"(\+|00)[1-9][0-9]{6,14}")


class ApiError(Exception):
    """An error answer; its message goes out as `message`, or in another `body`."""

    def __init__(self, status: int, message: str, *, body: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message} if body is None else body

    def response(self) -> Response:
        headers = {"Retry-After": "1"} if self.status == 429 else None
        return JSONResponse(self.body, self.status, headers=headers)


class CmCarrier(Carrier[CmCall]):
    """The carrier, with its customer's account. It closes `http`, through which callbacks and reports are made.

    `report_url` is where the account wants the status reports of its messages.
    `refuses_politely` is a reason for which all calls are refused with 200 and `success: false`.
    """

    def __init__(
        self,
        account: CmAccount,
        http: httpx.AsyncClient,
        clock: SimulatorClock,
        phones: PhoneExchange,
        *,
        report_url: str | None = None,
        is_first: bool = True,
    ) -> None:
        super().__init__(clock, phones, is_first=is_first)
        self.account = account
        self.http = http
        self.gateway = MessageGateway(account, http, clock, phones, report_url)
        self.habits = CallbackHabits()
        self.refuses_politely = ""

    def place(self, order: OtpRequest, caller: str) -> None:
        """Start the call that was asked for."""
        customs = self.customs_for(order, is_own_caller_id=caller == self.account.from_number)
        self.start(CmCall(order, self.line_for(order), self.clock, customs, caller, self.http, self.habits))

    async def close(self) -> None:
        await super().close()
        await self.gateway.close()
        await self.http.aclose()


def routes(carrier: CmCarrier) -> list[BaseRoute]:
    """The API below its base URL, and the message gateway below `GATEWAY_PATH`."""

    async def create(request: Request) -> Response:
        carrier.requests += 1
        if not carrier.account.has_sent(request):
            return Response(status_code=401)
        try:
            instruction = await _json_object(request)
            orders = read_instruction(instruction)
            trouble = carrier.trouble_with(orders[0].to)
            _raise_trouble(trouble)
            if not carrier.refuses_politely:
                _place_all(carrier, orders, str(instruction["caller"]))
        except ApiError as error:
            return error.response()
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        queued = [_queued(order, str(instruction["caller"]), carrier.refuses_politely) for order in orders]
        return JSONResponse(queued if instruction.get("callees") else queued[0])

    return [
        Route("/voiceapi/v2/OTP", create, methods=["POST"]),
        Mount(GATEWAY_PATH, routes=cm_messages.routes(carrier.gateway)),
    ]


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        return await json_object(request)
    except NotAnObject as error:
        raise ApiError(400, str(error)) from None


def _raise_trouble(trouble: ApiTrouble) -> None:
    match trouble:
        case ApiTrouble.DOWN:
            raise ApiError(503, "", body={"details": "Service unavailable", "errorCode": 500})
        case ApiTrouble.THROTTLED:
            raise ApiError(429, "Too many requests")
        case ApiTrouble.OUT_OF_CREDIT:
            raise ApiError(402, "Insufficient balance")


def _place_all(carrier: CmCarrier, orders: list[OtpRequest], caller: str) -> None:
    account = carrier.account
    for order in orders:
        try:
            carrier.count_start(account.calls_per_second, account.concurrent_calls)
        except LimitReached as reached:
            raise ApiError(429, str(reached)) from None
        carrier.place(order, caller)


def _queued(order: OtpRequest, caller: str, error: str) -> dict[str, Any]:
    """What is answered about one callee: the SDK's CallQueuedEvent."""
    queued: dict[str, Any] = {
        "type": "call-queued",
        "call-id": order.call_id,
        "caller": caller,
        "callee": order.to,
        "success": not error,
    }
    if order.instruction_id is not None:
        queued["instruction-id"] = order.instruction_id
    return {**queued, "error": error} if error else queued


# Instructions

Check = Callable[[Any], bool]


def _text(longest: int, shortest: int = 0) -> Check:
    return lambda value: isinstance(value, str) and shortest <= len(value) <= longest


def _whole_number(lowest: int, highest: int) -> Check:
    return lambda value: type(value) is int and lowest <= value <= highest


def _one_of(*words: str) -> Check:
    """An enum: one of its words, or the number of one."""
    return lambda value: value in words or (type(value) is int and 0 <= value < len(words))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"https?://[^/\s]+", value) is not None


_PROMPT_TYPES = tuple(PromptType)
_CODE_TYPES = ("Default", "TTS", "Custom")

_FIELDS: dict[str, Check] = {
    "instruction-id": _text(64),
    "callee": _text(24),
    "callees": _is_list_of_texts,
    "caller": _text(24, 1),
    "anonymous": _is_flag,
    "disable-callees-validation": _is_flag,
    "callback-url": _is_url,
    "max-ringing-timeout": _whole_number(10, 60),
    **{f"{name}-prompt": _text(750) for name in PROMPT_NAMES},
    **{f"{name}-prompt-type": _one_of(*_PROMPT_TYPES) for name in PROMPT_NAMES},
    "code": lambda value: isinstance(value, str) and re.fullmatch("[0-9A-Za-z]{1,64}", value) is not None,
    "code-type": _one_of(*_CODE_TYPES),
    "max-replays": _whole_number(0, 3),
    "auto-replay": _is_flag,
    "voice": lambda value: isinstance(value, dict),
    "voicemail-response": _one_of("Ignore", "Restart", "Stop"),
}
_VOICE_FIELDS: dict[str, Check] = {
    "language": lambda value: isinstance(value, str) and re.fullmatch("[a-z]{2}-[A-Z]{2}", value) is not None,
    "gender": _one_of("Male", "Female"),
    "number": _whole_number(1, 99),
    "volume": _whole_number(-4, 4),
    "premium": _is_flag,
}


def read_instruction(given: Mapping[str, Any]) -> list[OtpRequest]:
    """One request for each callee. Fields that are null count as left out. Raises: ApiError 400."""
    fields = {name: value for name, value in given.items() if value is not None}
    _check(fields, _FIELDS, "")
    voice = fields.get("voice", {})
    _check({name: value for name, value in voice.items() if value is not None}, _VOICE_FIELDS, "voice.")
    for name in ("caller", "code"):
        if name not in fields:
            raise ApiError(400, f"The field {name} is required.")
    return [_request_of(fields, callee) for callee in _callees_of(fields)]


def _check(fields: Mapping[str, Any], checks: Mapping[str, Check], prefix: str) -> None:
    for name, value in fields.items():
        if name not in checks:
            raise ApiError(400, f"The field {prefix}{name} is unknown.")
        if not checks[name](value):
            raise ApiError(400, f"The field {prefix}{name} is invalid.")


def _callees_of(fields: Mapping[str, Any]) -> list[str]:
    """Documented: one bad number refuses them all, unless validation is switched off."""
    callees = [*fields.get("callees", []), *([fields["callee"]] if "callee" in fields else [])]
    valid = [callee for callee in callees if _NUMBER.fullmatch(callee)]
    if not valid or (len(valid) < len(callees) and not fields.get("disable-callees-validation")):
        raise ApiError(400, "The field callee is required, and must be in international format.")
    return valid


def _request_of(fields: Mapping[str, Any], callee: str) -> OtpRequest:
    prompts = {name: _prompt_of(fields, name) for name in PROMPT_NAMES}
    return OtpRequest(
        call_id=str(uuid.uuid4()),
        from_number=ANONYMOUS if fields.get("anonymous") else fields["caller"],
        to=re.sub("^00", "+", callee),
        ring_timeout=fields.get("max-ringing-timeout", DEFAULT_RING_SECONDS),
        time_limit=LONGEST_CALL_SECONDS,
        hang_up_on_machine=False,
        instruction_id=fields.get("instruction-id"),
        callback_url=fields.get("callback-url"),
        intro=prompts["intro"],
        code_prompt=prompts["code"],
        code=fields["code"],
        code_type=_word(fields.get("code-type", "TTS"), _CODE_TYPES),
        replay=prompts["replay"],
        outro=prompts["outro"],
        max_replays=fields.get("max-replays", 0),
        auto_replay=fields.get("auto-replay", False),
        locale=fields.get("voice", {}).get("language") or "en-GB",
    )


def _prompt_of(fields: Mapping[str, Any], name: str) -> Prompt | None:
    """Not found: the type of a prompt that comes without one. The app next to this one takes it for a file."""
    text = fields.get(f"{name}-prompt")
    word = _word(fields.get(f"{name}-prompt-type", PromptType.FILE), _PROMPT_TYPES)
    return Prompt(PromptType(word), text) if text else None


def _word(value: str | int, words: tuple[str, ...]) -> str:
    return words[value] if isinstance(value, int) else value
