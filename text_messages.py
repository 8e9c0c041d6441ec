"""The channel beside the call: a code as a text message, through the first carrier that takes it."""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from time import monotonic

from call_links import CallLinks
from call_log import log_verification
from clock import Clock
from language_choice import LanguageChoice
from number_page import NewCode
from otp_store import OtpStore
from phone_numbers import LineType, number_of
from script_writer import ScriptWriter
from send_order import SendOrder, UnsupportedOption
from sms_provider import MessageOrder, MessageReport, MessageState, SmsProvider
from verification import MessageRef, Mode, NewMessage, Verification
from voice_provider import CallOutcomeUnknown, ProviderError, RawWebhook, WebhookRejected

logger = logging.getLogger(__name__)

_LINES_WITH_MESSAGES = frozenset({LineType.MOBILE, LineType.FIXED_LINE_OR_MOBILE})


class TextMessages:
    def __init__(
        self,
        providers: Mapping[str, SmsProvider],
        store: OtpStore,
        languages: LanguageChoice,
        writer: ScriptWriter,
        links: CallLinks,
        deadline_seconds: float,
        clock: Clock,
    ) -> None:
        self.providers = providers
        self._store = store
        self._languages = languages
        self._writer = writer
        self._links = links
        self._deadline_seconds = deadline_seconds
        self._clock = clock

    def can_reach(self, phone: str) -> bool:
        """Whether a code can be sent to this number as a text message."""
        return bool(self.providers) and number_of(phone).line_type in _LINES_WITH_MESSAGES

    def check_order(self, order: SendOrder) -> str:
        """The language to write in. Raises: UnsupportedOption."""
        if not self.providers:
            raise UnsupportedOption("channel", "sms is not available: SMS_PROVIDERS names no carrier; use voice")
        if not self.can_reach(order.phone):
            raise UnsupportedOption(
                "channel", "sms is not possible: this number takes no text messages; use voice"
            )
        if order.mode is not Mode.SPEAK:
            raise UnsupportedOption("mode", f"{order.mode.value} is a call: use channel voice")
        if order.hide_caller_id:
            raise UnsupportedOption("hide_caller_id", "is not possible with text messages: they show their sender")
        self._able(order)
        known = self._languages.known
        language = self._languages.choose(order.language, order.phone, known)
        if language is None or (order.language is not None and not self._languages.knows(order.language)):
            raise UnsupportedOption("language", f"must be one of {', '.join(known)}")
        return language

    def _able(self, order: SendOrder) -> Sequence[SmsProvider]:
        if order.provider is None:
            return list(self.providers.values())
        if order.provider not in self.providers:
            raise UnsupportedOption("provider", f"must be one of {', '.join(self.providers)} for text messages")
        return [self.providers[order.provider]]

    async def send(self, order: SendOrder, new_code: NewCode, language: str) -> tuple[Verification, bool]:
        """Send a code; the verification, and whether a carrier took the message for certain.

        Ends within the deadline of a request. Raises: ProviderError when no carrier took it, StoreUnavailable,
        NumberLocked.
        """
        ends_at = monotonic() + self._deadline_seconds
        error: ProviderError | None = None
        for provider in self._able(order):
            new_message = NewMessage(provider.name, provider.from_number, language)
            record, code = await self._store.begin_message(order.client, order.phone, new_code, new_message)
            ref = _newest(record)
            text = self._writer.text_message(code, language, order.prompts)
            message = self._message(record, ref, provider, text)
            try:
                async with asyncio.timeout(max(0.0, ends_at - monotonic())):
                    message_id = await provider.send_message(message)
            except (CallOutcomeUnknown, TimeoutError):
                log_verification(
                    logging.WARNING, "text message not confirmed", record, {"provider": provider.name}
                )
                return record, False
            except ProviderError as refusal:
                error = refusal
                details = {"provider": provider.name}
                log_verification(logging.WARNING, f"text message not sent: {refusal}", record, details)
                refused = MessageReport("", MessageState.UNDELIVERED, refusal.code)
                await self._store.record_report(*ref, refused)
                continue
            log_verification(logging.INFO, "text message sent", record, {"provider": provider.name})
            return await self._store.name_message(*ref, message_id) or record, True
        assert error is not None  # noqa: S101 - there is at least one carrier
        raise error

    def _message(self, record: Verification, ref: MessageRef, provider: SmsProvider, text: str) -> MessageOrder:
        return MessageOrder(
            to=record.phone,
            from_number=provider.from_number,
            text=text,
            report_url=self._links.report_url(ref),
            reference=self._links.message_token(ref),
            expires_in_seconds=max(1, math.floor(record.expires_at - self._clock.now())),
        )

    async def take_report(self, name_or_token: str, webhook: RawWebhook) -> Verification | None:
        """The verification that a report is about, moved on; None when the callback is about no message.

        Reports come to a URL with the message token, or to the one of a carrier's account, in which case a token
        inside the report, or a signature over all of it, has to prove it.
        Raises: WebhookRejected, StoreUnavailable.
        """
        provider = self.providers.get(name_or_token)
        if provider is not None:
            return await self._take_account_report(provider, webhook)
        ref, record = await self._find(name_or_token)
        if ref is None or record is None or record.message is None:
            raise WebhookRejected("report has an unknown message token", status=404)
        if ref != _newest(record):
            return record  # what becomes of an earlier message is of no interest any more
        provider = self.providers[record.message.provider]
        provider.check_report(webhook)
        report = provider.parse_report(webhook)
        return await self._keep(record, report) if report is not None else None

    async def _take_account_report(self, provider: SmsProvider, webhook: RawWebhook) -> Verification | None:
        provider.check_report(webhook)
        report = provider.parse_report(webhook)
        if report is None:
            return None
        ref, record = await self._find(provider.reference_of(webhook) or "")
        if ref is not None and record is not None and ref != _newest(record):
            return record
        if record is None and provider.signs_reports:
            record = await self._store.find_by_message_id(provider.name, report.message_id)
        if record is None or record.message is None or record.message.provider != provider.name:
            raise WebhookRejected("report is about no text message of ours", status=404)
        return await self._keep(record, report)

    async def _find(self, token: str) -> tuple[MessageRef | None, Verification | None]:
        """The message that a token stands for, and its verification, if it is still known."""
        ref = self._links.read_message_token(token)
        record = await self._store.find_by_id(ref.verification_id) if ref is not None else None
        return ref, record if record is not None and record.message is not None else None

    async def _keep(self, record: Verification, report: MessageReport) -> Verification:
        moved = await self._store.record_report(*_newest(record), report) or record
        if moved.message is not None and moved.message != record.message:
            details = {"provider": moved.message.provider, "cause": moved.message.cause or None}
            log_verification(logging.INFO, f"text message {moved.message.state.value}", moved, details)
        return moved


def _newest(record: Verification) -> MessageRef:
    """The newest text message of a verification that has one."""
    assert record.message is not None  # noqa: S101 - callers have looked, or begun it
    return MessageRef(record.id, record.message.number)
