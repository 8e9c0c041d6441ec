"""The watch over all output is not blind."""

import logging

from log_format import JsonFormatter
from tests.conftest import RunningService, keep_secret, keep_secrets_of_calls, leaks_in

SECRET = keep_secret("watched-secret-1")


def test_a_secret_is_found_in_a_message_and_in_its_details() -> None:
    formatter = JsonFormatter()
    for message, extra in ((f"x {SECRET} y", {}), ("x", {"phone": SECRET})):
        record = logging.makeLogRecord({"msg": message, **extra})
        assert leaks_in(formatter.format(record)) == [SECRET]


def test_a_code_of_digits_counts_only_where_it_stands_alone() -> None:
    keep_secret("482913")
    assert leaks_in("the code is 482913.") == ["482913"]
    assert leaks_in("a 1482913 b 4829137 c f482913") == []


async def test_codes_that_the_service_draws_are_watched_for(service: RunningService) -> None:
    call_uuid = (await service.send("+14155550101")).json()["call_uuid"]
    await service.calls_over()
    keep_secrets_of_calls(service.app)
    code = "".join(text for text in service.carrier.records[call_uuid].spoken if len(text) == 1)[:6]
    assert leaks_in(f"code {code}") == [code]
    assert leaks_in("to +14155550101") == ["+14155550101"]
