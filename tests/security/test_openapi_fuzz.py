"""C8, E5, E6: generated requests to each documented route, and what their answers may be.

Schemathesis makes requests that fit the OpenAPI document and requests that do not, over real HTTP. `make prove`
runs the long form.
"""

import itertools
import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from bench.servers import Server, service

pytestmark = pytest.mark.untraced  # the service is another process

CLIENT_KEY = "client-key-CANARY-0123456789abcdef"
OPERATOR_KEY = "operator-key-CANARY-0123456789abcdef"
EXAMPLES = 300 if os.environ.get("PROVE") else 12
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.ignored_auth,
]
OPERATIONS = [
    "POST /verify-otp",
    "GET /otp-status/{phone}",
    "POST /send-otp",
    "POST /send-alert",
    "POST /cancel-otp",
    *(
        f"POST {path}{token}"
        for token in ("/{call_token}", "")
        for path in ("/answer", "/otp-choice", "/hangup", "/ring")
    ),
    "POST /events/{call_token}",
    "POST /message/{message_token}",
    "GET /health",
    "GET /ready",
    "GET /blocks",
    "PUT /blocks/{target}",
    "DELETE /blocks/{target}",
]
WITHOUT_INPUT = ("GET /health", "GET /ready")
_senders = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    keys = {"API_KEYS": f"shop:{CLIENT_KEY}", "OPERATOR_KEYS": OPERATOR_KEY, "ALLOW_ANONYMOUS": "false"}
    with service(None, "", None, SIMULATOR_SPEED="1000", TRUSTED_PROXIES="127.0.0.1", **keys) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


def headers_from_anywhere(label: str, sender: int) -> dict[str, str]:
    """The key of a route, from an address of its own: wrong keys, which the checks also send, lock an address."""
    key = OPERATOR_KEY if "/blocks" in label else CLIENT_KEY
    return {"Authorization": f"Bearer {key}", "X-Forwarded-For": str(IPv4Address("10.0.0.0") + sender)}


def test_no_operation_is_left_out(document: schemathesis.BaseSchema) -> None:
    assert sorted(
        f"{one.method.upper()} {one.path}" for path in document.values() for one in path.values()
    ) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (label, mode)
        for label in OPERATIONS
        for mode in GenerationMode
        if label not in WITHOUT_INPUT or mode is GenerationMode.POSITIVE
    ],
)
def test_answers_to_generated_requests_are_as_documented(
    document: schemathesis.BaseSchema, label: str, mode: GenerationMode
) -> None:
    operation = document.find_operation_by_label(label)
    assert operation is not None

    @settings(
        derandomize=True,
        deadline=None,
        max_examples=EXAMPLES,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers=headers_from_anywhere(label, next(_senders)), checks=CHECKS)

    run()
