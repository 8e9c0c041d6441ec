"""The customer's account with the simulated CM.com, for calls and text messages alike."""

import hmac
import uuid
from dataclasses import dataclass, field

from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class CmAccount:
    """A limit of 0 is no limit."""

    product_token: str = field(repr=False)
    from_number: str
    calls_per_second: int = 0
    concurrent_calls: int = 0

    def has_sent(self, request: Request) -> bool:
        """Whether a request carries the account's product token."""
        given = request.headers.get("x-cm-producttoken", "")
        return hmac.compare_digest(given.lower().encode(), self.product_token.encode())


def new_account(from_number: str, calls_per_second: int = 0, concurrent_calls: int = 0) -> CmAccount:
    """An account with a fresh random product token, which is a GUID."""
    return CmAccount(str(uuid.uuid4()), from_number, calls_per_second, concurrent_calls)
