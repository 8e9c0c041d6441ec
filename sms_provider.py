"""The contract of a carrier's text messages: one request, and reports of what became of it.

Errors are those of `voice_provider`; "dialled" reads "sent" there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from voice_provider import RawWebhook


class MessageState(StrEnum):
    """Where a text message is. The order of the members is the only direction in which it moves; the last two are
    ends, and nothing comes after either of them."""

    QUEUED = "queued"
    SENT = "sent"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"


MESSAGE_ENDS = frozenset({MessageState.DELIVERED, MessageState.UNDELIVERED})


@dataclass(frozen=True, slots=True)
class MessageOrder:
    """One text message. Numbers are E.164. `reference` is the message token, which authorises its reports."""

    to: str
    from_number: str = field(repr=False)
    text: str = field(repr=False)
    report_url: str = field(repr=False)
    reference: str = field(repr=False)
    expires_in_seconds: int


@dataclass(frozen=True, slots=True)
class MessageReport:
    """What a carrier told about a message, translated.

    `state` is None where the carrier's word for it is unknown; `cause` is that word, or its error code.
    """

    message_id: str
    state: MessageState | None
    cause: str = ""


class SmsProvider(Protocol):
    """A carrier that sends text messages."""

    name: str
    from_number: str
    report_schema: Mapping[str, Any]
    signs_reports: bool
    """Whether `check_report` proves what a report says, and not only where it was sent: then one to the account's
    own URL is believed without a message token."""

    async def send_message(self, order: MessageOrder) -> str:
        """Ask the carrier to send a message, once; its message id. Raises: ProviderError."""
        ...

    def check_report(self, webhook: RawWebhook) -> None:
        """Check the signature of a report, where the carrier signs any. Raises: WebhookRejected."""
        ...

    def parse_report(self, webhook: RawWebhook) -> MessageReport | None:
        """Translate a report; None for a callback that is about no message. Raises: WebhookRejected."""
        ...

    def reference_of(self, webhook: RawWebhook) -> str | None:
        """The message token in a report that came to the account's own URL; None where there is none."""
        ...
