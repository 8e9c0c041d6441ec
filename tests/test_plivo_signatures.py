"""Plivo's signatures: we accept exactly what the official SDK accepts, and never a weaker scheme in its place."""

import base64
import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plivo.utils import validate_signature, validate_v3_signature  # type: ignore[import-untyped]

from plivo_client import PlivoClient, PlivoConfig, signed_message
from plivo_sms import PlivoSms, PlivoSmsConfig
from tests.conftest import keep_secret
from voice_provider import CallState, RawWebhook, SignaturePolicy, WebhookRejected

TOKEN = keep_secret("plivo_test_token_0123456789")
NONCE = "05429567804466091622"
URL = "https://otp.example.com/hooks/plivo/digits"
QUERY = "sid=abc&lang=en"
FIELDS = {
    "CallUUID": "97ceeb52-58b6-11e1-86da-77300b68f8bb",
    "Digits": "1",
    "From": "14155551234",
    "To": "14155555678",
    "Event": "Redirect",
}
V3 = "x-plivo-signature-v3"
V2 = "x-plivo-signature-v2"

HTTP = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(500)))


def client_of(policy: SignaturePolicy = SignaturePolicy.REQUIRED, token: str = TOKEN) -> PlivoClient:
    return PlivoClient(PlivoConfig("MAXXXXXXXXXXXXXXXXXX", token, "+12025550100", signature_policy=policy), HTTP)


def webhook_of(
    signature: str | None,
    nonce: str | None = NONCE,
    url: str = URL,
    query: str = QUERY,
    method: str = "POST",
    body: bytes | None = None,
) -> RawWebhook:
    given_headers = {V3: signature, f"{V3}-nonce": nonce}
    headers = {name: value for name, value in given_headers.items() if value is not None}
    form = urlencode(FIELDS).encode() if body is None else body
    return RawWebhook((url,), headers, b"" if method == "GET" else form, method, query)


def is_accepted(webhook: RawWebhook, client: PlivoClient | None = None) -> bool:
    try:
        return (client or client_of()).check_webhook(webhook) == webhook.headers[f"{V3}-nonce"]
    except WebhookRejected:
        return False


def sign(message: str, token: str = TOKEN) -> str:
    return base64.b64encode(hmac.digest(token.encode(), message.encode(), sha256)).decode()


# Vectors: each was computed by hand from its message, and accepted by the SDK (plivo 4.63.0).

FIELDS_TEXT = "CallUUID97ceeb52-58b6-11e1-86da-77300b68f8bbDigits1EventRedirectFrom14155551234To14155555678"
ANSWER = "https://otp.example.com/hooks/plivo/answer"


@pytest.mark.parametrize(
    ("method", "url", "query", "fields", "message", "signature"),
    [
        pytest.param(
            "POST", URL, QUERY, FIELDS, f"{URL}?lang=en&sid=abc.{FIELDS_TEXT}",
            "xKNNyXUUFTBopcOjEK3JPIwXGsio6UWI+zMwPMTgJAs=", id="POST with a query",
        ),
        pytest.param(
            "POST", ANSWER, "", FIELDS, f"{ANSWER}?{FIELDS_TEXT}",
            "tWhSdXCxsoOPZneCAVTXvN+bVKSkRH6m1qU91sUvabE=", id="POST without a query",
        ),
        pytest.param(
            "POST", ANSWER, "", {}, ANSWER,
            "Ya1mbUW1LczxslecAS5aeYxjTywAUTulLQZk3qzwmes=", id="POST without fields",
        ),
        pytest.param(
            "GET", ANSWER, "sid=abc&To=14155555678&From=14155551234&CallUUID=97ceeb52", {},
            f"{ANSWER}?CallUUID=97ceeb52&From=14155551234&To=14155555678&sid=abc",
            "p3Dpvbkd0hRuf0zAAipNI3sUlKKEMOesgdhKS5aU9bA=", id="GET",
        ),
    ],
)  # fmt: skip
def test_the_known_signatures_are_right(
    method: str, url: str, query: str, fields: dict[str, str], message: str, signature: str
) -> None:
    assert signed_message(f"{url}?{query}", fields, NONCE).decode() == f"{message}.{NONCE}"
    assert sign(f"{message}.{NONCE}") == signature
    webhook = webhook_of(signature, url=url, query=query, method=method, body=urlencode(fields).encode())
    assert is_accepted(webhook)


# Against the SDK, over generated callbacks

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_fields = st.dictionaries(_text, _text, max_size=5)
_ascii = st.text(st.characters(codec="ascii"), max_size=6)
_pairs = st.lists(st.tuples(_ascii, _ascii), max_size=4)
_encoders: st.SearchStrategy[Callable[[str], str]] = st.sampled_from([quote, quote_plus])
_raw_query = st.text(st.sampled_from("ab=&%2+;.?/é\x01"), max_size=12)
_path = st.text(st.sampled_from("ab/%2F.;~-"), max_size=8)
_tokens = st.lists(st.sampled_from([TOKEN, "another-token-0123456789"]), min_size=1, max_size=3)


def encoded(pairs: list[tuple[str, str]], encode: Callable[[str], str]) -> str:
    return "&".join(f"{encode(name)}={encode(value)}" for name, value in pairs)


def judge(method: str, uri: str, signature: str, fields: dict[str, str]) -> bool | None:
    """What the SDK says; None where it breaks."""
    try:
        verdict: bool = validate_v3_signature(method, uri, NONCE, TOKEN, signature, dict(fields))
    except Exception:
        return None
    return verdict


@given(
    method=st.sampled_from(["POST", "GET"]),
    path=_path,
    query=st.builds(encoded, _pairs, _encoders) | _raw_query,
    fields=_fields,
    tokens=_tokens,
    break_at=st.none() | st.integers(0, 200),
)
@example("POST", "a", "n=1", FIELDS, [TOKEN], None)
@example("POST", "a", "", FIELDS, [TOKEN], None)
@example("POST", "a", "n=%C3%A9", FIELDS, [TOKEN], None)
@example("GET", "a", "b=2&a=1&a=0&c", {}, [TOKEN, "another-token-0123456789"], None)
def test_a_generated_callback_is_accepted_exactly_when_the_sdk_accepts_it(
    method: str, path: str, query: str, fields: dict[str, str], tokens: list[str], break_at: int | None
) -> None:
    given_fields = {} if method == "GET" else fields
    url = f"https://otp.example.com/{path}"
    uri = f"{url}?{query}" if query else url
    try:
        message = signed_message(uri, given_fields, NONCE).decode()
    except WebhookRejected:
        message = uri  # the SDK must not have a better idea
    signature = ",".join(sign(message, token) for token in tokens)
    if break_at is not None:
        at = break_at % len(signature)
        signature = f"{signature[:at]}{'A' if signature[at] != 'A' else 'B'}{signature[at + 1 :]}"
    verdict = judge(method, uri, signature, given_fields)
    body = urlencode(given_fields).encode()
    ours = is_accepted(webhook_of(signature, url=url, query=query, method=method, body=body))
    if verdict is None:
        assert not ours, "a callback that the SDK cannot read is refused"
    else:
        assert ours == verdict


def test_the_sdk_and_the_documentation_agree_on_every_url_that_plivo_is_told() -> None:
    """Documented: the URL as it was sent, a point, the fields, a point, the nonce."""
    fields = urlencode(FIELDS).encode()
    for url, query in (("https://otp.example.com/answer/T", "n=1"), ("https://otp.example.com/hangup/T", "k=1")):
        documented = sign(f"{url}?{query}.{FIELDS_TEXT}.{NONCE}")
        assert judge("POST", f"{url}?{query}", documented, FIELDS)
        assert is_accepted(webhook_of(documented, url=url, query=query, body=fields))


def test_without_a_query_only_the_reading_of_the_sdk_is_taken() -> None:
    with_a_point = sign(f"{ANSWER}.{FIELDS_TEXT}.{NONCE}")
    assert judge("POST", ANSWER, with_a_point, FIELDS) is False
    assert not is_accepted(webhook_of(with_a_point, url=ANSWER, query=""))


RIGHT = "xKNNyXUUFTBopcOjEK3JPIwXGsio6UWI+zMwPMTgJAs="


@pytest.mark.parametrize(
    "webhook",
    [
        pytest.param(webhook_of("y" + RIGHT[1:]), id="altered"),
        pytest.param(webhook_of(RIGHT[:-4]), id="cut"),
        pytest.param(webhook_of(""), id="empty"),
        pytest.param(webhook_of(","), id="empty list"),
        pytest.param(webhook_of(f"A, {RIGHT}"), id="a space in the list"),
        pytest.param(webhook_of("é" * 44), id="not ASCII"),
        pytest.param(webhook_of("x," * 5000), id="10 KB"),
        pytest.param(webhook_of(RIGHT, nonce=None), id="no nonce"),
        pytest.param(webhook_of(None), id="only a nonce"),
        pytest.param(webhook_of(RIGHT, url=URL + "x"), id="another path"),
        pytest.param(webhook_of(RIGHT, url="http" + URL[5:]), id="another scheme"),
        pytest.param(webhook_of(RIGHT, query="sid=abc&lang=de"), id="another query"),
        pytest.param(webhook_of(RIGHT, body=urlencode({**FIELDS, "Digits": "2"}).encode()), id="another field"),
        pytest.param(webhook_of(RIGHT, body=urlencode(FIELDS).encode() + b"&Digits=1"), id="a field twice"),
        pytest.param(webhook_of(RIGHT, body=urlencode(FIELDS).encode() + b"&\xff"), id="no form"),
        pytest.param(webhook_of(RIGHT, query="&".join(f"q{n}" for n in range(500))), id="500 parameters"),
        pytest.param(webhook_of(RIGHT, method="GET"), id="another method"),
    ],
)
def test_a_wrong_signature_is_refused_under_every_policy(webhook: RawWebhook) -> None:
    assert is_accepted(webhook_of(RIGHT)), "else this test shows nothing"
    for policy in SignaturePolicy:
        with pytest.raises(WebhookRejected):
            client_of(policy).check_webhook(webhook)


def test_an_unsigned_callback_passes_only_where_the_policy_lets_it(caplog: pytest.LogCaptureFixture) -> None:
    unsigned = webhook_of(None, None)
    lenient = client_of(SignaturePolicy.WHEN_PRESENT)
    assert lenient.check_webhook(unsigned) is lenient.check_webhook(unsigned) is None
    assert caplog.text.count("WEBHOOK_SIGNATURES=required") == 1
    with pytest.raises(WebhookRejected, match="not signed"):
        lenient.check_webhook(unsigned, must_be_signed=True)
    with pytest.raises(WebhookRejected, match="not signed"):
        client_of().check_webhook(unsigned)
    default = PlivoConfig("MAXXXXXXXXXXXXXXXXXX", TOKEN, "+12025550100")
    assert default.signature_policy is SignaturePolicy.REQUIRED


def test_a_callback_may_come_to_any_of_our_hosts() -> None:
    webhook = webhook_of(RIGHT)
    both = RawWebhook(("https://other.example.com/x", URL), webhook.headers, webhook.body, "POST", QUERY)
    assert is_accepted(both)


def test_neither_the_main_account_nor_v2_stands_in_for_v3() -> None:
    """Made with our own token, so that only the name of the header is wrong."""
    body = urlencode(FIELDS).encode()
    v2 = {V2: sign(URL + NONCE), f"{V2}-nonce": NONCE}
    for headers in (v2, {"x-plivo-signature-ma-v3": RIGHT, f"{V3}-nonce": NONCE}):
        with pytest.raises(WebhookRejected):
            client_of().check_webhook(RawWebhook((URL,), headers, body, "POST", QUERY))
    assert not is_accepted(webhook_of(sign(URL + NONCE), body=b""))


# One signature, one meaning: what can be moved about in a signed message (names and values are joined without
# separators) is refused before it is believed.


def event_of(webhook: RawWebhook) -> Any:
    client = client_of()
    client.check_webhook(webhook)
    return client.parse_event(webhook, CallState.ANSWERED)


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in FIELDS.items() if name not in names}


@pytest.mark.parametrize(
    ("fields", "query", "nonce", "method"),
    [
        pytest.param(
            {**without("Event"), "Digits": "1EventRedirect"}, QUERY, NONCE, "POST", id="a field lost in Digits"
        ),
        pytest.param(
            {**without("Digits"), "CallUUID": FIELDS["CallUUID"] + "Digits1"}, QUERY, NONCE, "POST",
            id="a field lost in CallUUID",
        ),
        pytest.param({}, QUERY, f"{FIELDS_TEXT}.{NONCE}", "POST", id="the fields in the nonce"),
        pytest.param({"lang=en&sid=abc.": FIELDS_TEXT}, "", NONCE, "POST", id="the query in a name"),
        pytest.param({}, f"lang=en&sid=abc.{FIELDS_TEXT}", NONCE, "GET", id="the fields in the query of a GET"),
    ],
)  # fmt: skip
def test_a_signature_cannot_be_carried_over_to_other_fields(
    fields: dict[str, str], query: str, nonce: str, method: str
) -> None:
    message = signed_message(f"{URL}?{query}", fields, nonce).decode()
    assert sign(message) == RIGHT, "the forged callback has the signature of the true one, or this shows nothing"
    assert event_of(webhook_of(RIGHT)).digits == "1"
    forged = webhook_of(RIGHT, nonce, query=query, method=method, body=urlencode(fields).encode())
    with pytest.raises(WebhookRejected):
        event_of(forged)


def test_who_regroups_fields_can_leave_some_out_but_put_nothing_in() -> None:
    fields = {**without("Digits", "Event"), "Digits1EventRedirect": ""}
    event = event_of(webhook_of(RIGHT, body=urlencode(fields).encode()))
    assert (event.call_id, event.state, event.digits) == (FIELDS["CallUUID"], CallState.ANSWERED, "")


@pytest.mark.parametrize("nonce", ["", "a.b", "1" * 65, "1\n", "٠" * 20, "a b"])
def test_an_odd_nonce_is_refused_although_its_signature_is_right(nonce: str) -> None:
    signature = sign(signed_message(f"{URL}?{QUERY}", FIELDS, nonce).decode())
    with pytest.raises(WebhookRejected, match="nonce"):
        client_of().check_webhook(webhook_of(signature, nonce))


@pytest.mark.parametrize("nonce", [NONCE, "12345", "af1ecd7e-0c1d-11ef-b2d2-0242ac110003"])
def test_a_nonce_may_be_any_plain_word(nonce: str) -> None:
    assert is_accepted(webhook_of(sign(signed_message(f"{URL}?{QUERY}", FIELDS, nonce).decode()), nonce))


# V2, of delivery reports


def report_of(signature: str, nonce: str = NONCE, url: str = ANSWER) -> RawWebhook:
    return RawWebhook((url,), {V2: signature, f"{V2}-nonce": nonce}, b"")


def sms_of(policy: SignaturePolicy = SignaturePolicy.REQUIRED, token: str = TOKEN) -> PlivoSms:
    return PlivoSms(PlivoSmsConfig("MAXXXXXXXXXXXXXXXXXX", token, "+12025550100", signature_policy=policy), HTTP)


def test_the_known_v2_signatures_are_right() -> None:
    known = report_of("F/gvzghDXnxv4Vly/1/bv/6yGauGZkVbcc+csM19clE=")
    sms_of().check_report(known)
    of_the_sdks_tests = report_of("ehV3IKhLysWBxC1sy8INm0qGoQYdYsHwuoKjsX7FsXc=", "12345", "https://answer.url")
    sms_of(token="my_auth_token").check_report(of_the_sdks_tests)


@given(path=_path, is_right=st.booleans(), nonce=st.from_regex("[A-Za-z0-9-]{1,64}", fullmatch=True))
def test_a_generated_report_is_accepted_exactly_when_the_sdk_accepts_it(
    path: str, is_right: bool, nonce: str
) -> None:
    url = f"https://otp.example.com/{path.replace(';', '')}"
    signature = sign(url + nonce, TOKEN if is_right else "another-token-0123456789")
    assert validate_signature(url, nonce, signature, TOKEN) == is_right
    try:
        sms_of().check_report(report_of(signature, nonce, url))
        ours = True
    except WebhookRejected:
        ours = False
    assert ours == is_right


def test_a_list_of_v2_signatures_is_understood_as_one_of_v3_is() -> None:
    both = f"{sign(ANSWER + NONCE, 'another-token-0123456789')},{sign(ANSWER + NONCE)}"
    sms_of().check_report(report_of(both))


def test_a_report_that_is_not_rightly_signed_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    for headers in ({V2: sign(ANSWER + NONCE)}, {f"{V2}-nonce": NONCE}, {V2: "é", f"{V2}-nonce": NONCE}):
        for policy in SignaturePolicy:
            with pytest.raises(WebhookRejected):
                sms_of(policy).check_report(RawWebhook((ANSWER,), headers, b""))
    main_account = {f"{V2.replace('v2', 'ma-v2')}": sign(ANSWER + NONCE), f"{V2}-nonce": NONCE}
    with pytest.raises(WebhookRejected):
        sms_of().check_report(RawWebhook((ANSWER,), main_account, b""))
    with pytest.raises(WebhookRejected, match="not signed"):
        sms_of().check_report(RawWebhook((ANSWER,), {}, b""))
    lenient = sms_of(SignaturePolicy.WHEN_PRESENT)
    for _ in range(2):
        lenient.check_report(RawWebhook((ANSWER,), {}, b""))
    assert caplog.text.count("WEBHOOK_SIGNATURES=required") == 1
