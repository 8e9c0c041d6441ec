"""What Plivo's calls and text messages share: the errors of its API, and its signatures' arithmetic.

Source of the protocol facts: https://www.plivo.com/docs/voice/api/overview (documented) and the SDK plivo 4.63.0.
"""

import base64
import hmac
from collections.abc import Iterable, Mapping

from carrier_request import Answer, refusal
from voice_provider import ProviderError

# Documented: what each status means; what the operator can do about it is ours.
REFUSALS: Mapping[int, str] = {
    401: "Plivo refused the credentials: check PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN",
    402: "the Plivo account has too little credit: top it up in the console",
    403: "Plivo does not allow this: check the account's geo permissions for this country, and its verification",
    404: "Plivo does not know this account or path: check PLIVO_AUTH_ID and PLIVO_API_URL",
    429: "Plivo takes at most 300 requests in 5 seconds",
}


def error_of(answer: Answer, reasons: Mapping[int, str], id_field: str) -> ProviderError:
    """The error for an answer that is no success. Plivo's text may repeat a number: nothing of it is shown.

    A failure that the API itself reports, in its documented shape, did nothing unless it names an id.
    """
    body = answer.body
    is_error_document = isinstance(body.get("error"), str) and isinstance(body.get("api_id"), str)
    return refusal(answer, "Plivo", reasons, is_own_error=is_error_document and not body.get(id_field))


def is_any_right(keyed_mac: hmac.HMAC, messages: Iterable[bytes], given: list[bytes]) -> bool:
    """Whether one of the given signatures is that of one of the messages; takes the same time either way."""
    is_right = False
    for message in messages:
        mac = keyed_mac.copy()
        mac.update(message)
        expected = base64.b64encode(mac.digest())
        for signature in given:
            is_right |= hmac.compare_digest(expected, signature)
    return is_right
