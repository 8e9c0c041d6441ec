"""The OpenAPI document describes every route, with an example, and its examples are true."""

from typing import Any

import pytest

from app_models import CancelOtp, SendAlert, SendOtp, VerifyOtp
from lean_route import LeanRoute, parse_json
from server import create_app
from settings import load_settings
from tests.conftest import keep_secret, run_service

ROUTES = {
    "/send-otp": "post",
    "/verify-otp": "post",
    "/otp-status/{phone}": "get",
    "/send-alert": "post",
    "/cancel-otp": "post",
    "/answer": "post",
    "/answer/{call_token}": "post",
    "/otp-choice": "post",
    "/otp-choice/{call_token}": "post",
    "/hangup": "post",
    "/hangup/{call_token}": "post",
    "/ring": "post",
    "/ring/{call_token}": "post",
    "/events/{call_token}": "post",
    "/message/{message_token}": "post",
    "/health": "get",
    "/ready": "get",
    "/blocks": "get",
    "/blocks/{target}": "put",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(load_settings()).openapi()


def has_example(node: Any) -> bool:
    if isinstance(node, dict):
        return "example" in node or "examples" in node or any(has_example(value) for value in node.values())
    return isinstance(node, list) and any(has_example(value) for value in node)


def resolved(node: Any, document: dict[str, Any]) -> Any:
    """The node with every reference replaced by what it refers to."""
    if isinstance(node, list):
        return [resolved(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return resolved(document["components"]["schemas"][node["$ref"].rsplit("/", 1)[1]], document)
    return {key: resolved(value, document) for key, value in node.items()}


def test_every_route_is_described_and_no_other(document: dict[str, Any]) -> None:
    assert {path: next(iter(methods)) for path, methods in document["paths"].items()} == ROUTES


@pytest.mark.parametrize(("path", "method"), ROUTES.items())
def test_a_route_has_words_answers_and_examples(document: dict[str, Any], path: str, method: str) -> None:
    route = document["paths"][path][method]
    assert route["description"]
    assert "200" in route["responses"]
    full = resolved(route, document)
    if path.startswith(("/hangup", "/ring", "/events", "/message")):
        assert has_example(full["requestBody"]), "the answers are empty"
    else:
        assert has_example(full["responses"]["200"])
    if "requestBody" in full:
        assert has_example(full["requestBody"])
    errors = [code for code in full["responses"] if int(code) >= 400]
    assert errors or path in ("/health",)


def test_errors_are_problem_documents(document: dict[str, Any]) -> None:
    answers = document["paths"]["/send-otp"]["post"]["responses"]
    for status in ("400", "413", "415", "422", "429", "502", "503"):
        assert list(answers[status]["content"]) == ["application/problem+json"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_an_error_status_has_an_example_of_its_own(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            for status, answer in route["responses"].items():
                problem = answer.get("content", {}).get("application/problem+json")
                if problem is not None:
                    example = problem["example"]
                    assert (str(example["status"]), bool(example["detail"])) == (status, True), (path, method)
                    assert example["type"] == f"urn:voice-otp:problem:{example['code']}"


def test_no_two_statuses_of_a_route_say_the_same(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for route in methods.values():
            said = [answer["description"] for answer in route["responses"].values()]
            assert len(said) == len(set(said)), route["operationId"]


async def test_error_examples_are_what_the_service_answers(document: dict[str, Any]) -> None:
    def example(path: str, method: str, status: int) -> Any:
        content = document["paths"][path][method]["responses"][str(status)]["content"]
        return content["application/problem+json"]["example"]

    phone = keep_secret("+14155550100")
    json_type = {"content-type": "application/json"}
    async with run_service(blocked="client:anonymous", operator_keys="o" * 32) as running:
        ask = running.client.request
        for status, answer in (
            (400, await ask("POST", "/send-otp", content=b"?", headers=json_type)),
            (413, await ask("POST", "/send-otp", content=b" " * 20_000, headers=json_type)),
            (415, await ask("POST", "/send-otp", content=b"{}")),
            (422, await ask("POST", "/send-otp", json={"phone": "4155550100"})),
            (503, await ask("POST", "/send-otp", json={"phone": phone})),
        ):
            assert (answer.status_code, answer.json()) == (status, example("/send-otp", "post", status))
        assert (await ask("GET", f"/otp-status/{phone}")).json() == example("/otp-status/{phone}", "get", 404)
        assert (await ask("GET", "/blocks")).json() == example("/blocks", "get", 401)
        headers = {"authorization": f"Bearer {'o' * 32}"}
        for status, target in ((404, "region:XK"), (422, "everything")):
            refused = await ask("DELETE", f"/blocks/{target}", headers=headers)
            assert refused.json() == example("/blocks/{target}", "delete", status)


@pytest.mark.parametrize("model", [SendOtp, SendAlert, VerifyOtp, CancelOtp])
def test_request_examples_are_accepted(model: Any, document: dict[str, Any]) -> None:
    properties = document["components"]["schemas"][model.__name__]["properties"]
    required = {"otp", "phone", "template"} & set(properties)
    examples = {name: resolved(properties[name], document).get("examples", [None])[0] for name in required}
    examples = {name: value or "+14155550100" for name, value in examples.items()}
    import json

    parse_json(model, json.dumps(examples).encode())


def test_the_service_uses_one_kind_of_route() -> None:
    app = create_app(load_settings())
    assert all(isinstance(route, LeanRoute) for route in app.routes if getattr(route, "path", "") in ROUTES)
