"""The simulated runner of PHLOs: account and API, below https://phlorunner.plivo.com/v1.

Documented on https://www.plivo.com/docs/phlo (api/phlo/run-a-phlo); fetching a PHLO is what the SDK plivo 4.63.0
does before it runs one. The bodies of errors are not found: most are of the shape that the rest of Plivo's API
has, some of the one in the SDK's fixtures.
"""

import base64
import hmac
import re
import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulator.call import CallRequest
from simulator.callees import ApiTrouble
from simulator.clock import SimulatorClock
from simulator.network import Carrier, LimitReached
from simulator.phlo_call import PhloCall
from simulator.phlo_canvas import Phlo, documented_phlo, render, without_reports
from simulator.phone import PhoneExchange
from simulator.rest import NotAnObject, json_object, wait_for_disconnect

TIME_LIMIT_SECONDS = 14_400  # documented for all calls of Plivo, where none is set
_NUMBER = re.compile(r"\+?[1-9][0-9]{6,14}")


@dataclass(frozen=True, slots=True)
class Account:
    """The customer's account, with one PHLO. A limit of 0 is no limit."""

    auth_id: str
    auth_token: str = field(repr=False)
    from_number: str
    phlo_id: str
    phlo: Phlo
    calls_per_second: int = 0
    concurrent_calls: int = 0


def new_account(
    from_number: str,
    calls_per_second: int = 0,
    concurrent_calls: int = 0,
    *,
    language: str = "en-US",
    reports_back: bool = True,
    detects_machines: bool = False,
) -> Account:
    """An account with fresh random credentials, and the documented PHLO, with or without its reports."""
    # SDK: main accounts are MA and 18 capitals or digits; it takes nothing else.
    auth_id = "MA" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(18))
    phlo = documented_phlo(language, detects_machines=detects_machines)
    return Account(
        auth_id,
        secrets.token_urlsafe(30),
        from_number,
        str(uuid.uuid4()),
        phlo if reports_back else without_reports(phlo),
        calls_per_second,
        concurrent_calls,
    )


class ApiError(Exception):
    """An error answer. Its shape is not found for PHLO: without a text it is that of the SDK's fixtures."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.status = status

    def response(self) -> JSONResponse:
        error = {"api_id": str(uuid.uuid4()), "error": str(self)} if str(self) else {"status": ""}
        return JSONResponse(error, self.status)


class PhloCarrier(Carrier[PhloCall]):
    """The carrier, with its customer's account and the HTTP client of the PHLO's reports."""

    def __init__(
        self,
        account: Account,
        http: httpx.AsyncClient,
        clock: SimulatorClock,
        phones: PhoneExchange,
        *,
        is_first: bool = True,
    ) -> None:
        super().__init__(clock, phones, is_first=is_first)
        self.account = account
        self.http = http

    def run(self, run_id: str, payload: Mapping[str, str]) -> None:
        """Start the call that the PHLO's Initiate Call node makes of a payload."""
        settings = self._call_settings(payload)
        request = CallRequest(
            call_id=run_id,
            from_number=settings["from"],
            to=settings["to"],
            ring_timeout=float(settings["ring timeout"]),
            time_limit=TIME_LIMIT_SECONDS,
            hang_up_on_machine="machine detection" in settings,
        )
        customs = self.customs_for(request, is_own_caller_id=request.from_number == self.account.from_number)
        line = self.line_for(request)
        self.start(PhloCall(request, line, self.clock, customs, self.account.phlo, payload, self.http))

    def _call_settings(self, payload: Mapping[str, str]) -> dict[str, str]:
        variables = {f"Start.http.params.{key}": value for key, value in payload.items()}
        templates = self.account.phlo.nodes["call"].settings
        return {name: render(template, variables) for name, template in templates.items()}

    def check_limits(self) -> None:
        """Raises: ApiError 429 when the account starts too many calls a second, or holds too many."""
        try:
            self.count_start(self.account.calls_per_second, self.account.concurrent_calls)
        except LimitReached:
            raise ApiError(429) from None

    async def close(self) -> None:
        await super().close()
        await self.http.aclose()


def routes(carrier: PhloCarrier) -> list[Route]:
    """The API below its base URL; documented without a slash at the end of paths, called with one by the SDK."""
    account = carrier.account

    async def run(request: Request) -> Response:
        carrier.requests += 1
        _check_path(request, account)
        payload = await _payload(request, account.phlo)
        trouble = carrier.trouble_with(payload["to"])
        _raise_trouble(trouble)
        carrier.check_limits()
        run_id = str(uuid.uuid4())
        carrier.run(run_id, payload)
        if trouble is ApiTrouble.SLOW:
            await wait_for_disconnect(request)
        message = f"b'Initiate Call' - b'call' with phlo_run_uuid: {run_id} executed with response: {{}}"
        return JSONResponse({"phlo_id": account.phlo_id, "api_id": run_id, "message": message}, 201)

    async def show(request: Request) -> Response:
        _check_path(request, account)
        shown = {"phlo_id": account.phlo_id, "name": "voice otp", "created_on": "2026-01-01 00:00:00.000000"}
        return JSONResponse({"api_id": str(uuid.uuid4()), **shown})

    def guarded(endpoint: Any) -> Any:
        async def checked(request: Request) -> Response:
            try:
                _authenticate(request, account)
                response: Response = await endpoint(request)
                return response
            except ApiError as error:
                return error.response()

        return checked

    run_path, show_path = "/account/{auth_id}/phlo/{phlo_id}", "/phlo/{phlo_id}"
    return [
        *(Route(run_path + slash, guarded(run), methods=["POST"]) for slash in ("", "/")),
        *(Route(show_path + slash, guarded(show), methods=["GET"]) for slash in ("", "/")),
    ]


def _authenticate(request: Request, account: Account) -> None:
    """HTTP Basic with auth id and token."""
    expected = "Basic " + base64.b64encode(f"{account.auth_id}:{account.auth_token}".encode()).decode()
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise ApiError(401, "authentication failed")


def _check_path(request: Request, account: Account) -> None:
    if request.path_params.get("auth_id", account.auth_id) != account.auth_id:
        raise ApiError(401, "authentication failed")
    if request.path_params["phlo_id"] != account.phlo_id:
        raise ApiError(404)


async def _payload(request: Request, phlo: Phlo) -> dict[str, str]:
    """Stricter than what is documented, so that a misspelled key does not go unseen. Raises: ApiError 400."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise ApiError(400, "content type must be application/json")
    try:
        body = await json_object(request)
    except NotAnObject as error:
        raise ApiError(400, str(error)) from None
    if body.keys() != phlo.keys:
        raise ApiError(400, f"keys are not those of the Start node: {', '.join(sorted(body.keys() ^ phlo.keys))}")
    if not all(isinstance(value, str) for value in body.values()):
        raise ApiError(400, "values must be text")
    for key in ("from", "to"):
        if not _NUMBER.fullmatch(body[key]):
            raise ApiError(400, f"{key} parameter is invalid")
    return body


def _raise_trouble(trouble: ApiTrouble) -> None:
    match trouble:
        case ApiTrouble.DOWN:
            raise ApiError(503)
        case ApiTrouble.THROTTLED:
            raise ApiError(429)
        case ApiTrouble.OUT_OF_CREDIT:
            raise ApiError(402, "insufficient balance")
