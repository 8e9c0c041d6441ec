"""A carrier's callbacks: which call each is about, what it reports, and the answer that it waits for."""

import logging
from collections.abc import Mapping
from hashlib import sha256

from call_events import HANG_UP_SECONDS, CallEvents
from call_links import CallLinks
from call_log import hang_up_if_possible
from clock import Clock
from conversation import CallInProgress, Conversation, Place, Said
from guard_store import GuardStore
from number_page import OtherCall
from otp_store import OtpStore
from verification import TOKEN_GRACE_SECONDS, Call, CallRef, Verification, short_id
from voice_provider import (
    CallEvent,
    CallState,
    Providers,
    VoiceProvider,
    WebhookRejected,
)

logger = logging.getLogger(__name__)


class CallFlow:
    """Each callback of a carrier is one step: take in what it reports, then say what comes next."""

    def __init__(
        self,
        store: OtpStore,
        providers: Providers,
        conversation: Conversation,
        links: CallLinks,
        events: CallEvents,
        guard_store: GuardStore,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._events = events
        self._guard_store = guard_store
        self._store = store
        self._providers = providers
        self._conversation = conversation
        self.links = links

    async def find_call(self, ref: CallRef) -> CallInProgress | None:
        """The call of a token. None once another call followed it, or a minute after its end."""
        record = await self._store.find_by_id(ref.verification_id)
        if record is None or record.call is None or record.call.number != ref.number:
            return None
        if not record.call.takes_callbacks(self._clock.now()):
            return None
        return self._in_progress(record, record.call)

    async def find_call_by_id(self, provider: str, call_id: str) -> CallInProgress | None:
        """The live call that a carrier's call id stands for."""
        record = await self._store.find_by_call_id(provider, call_id)
        if record is None or record.call is None:
            return None
        return self._in_progress(record, record.call)

    def _in_progress(self, record: Verification, call: Call) -> CallInProgress:
        return CallInProgress(record, call, self._providers.by_name[call.provider])

    @property
    def providers(self) -> Mapping[str, VoiceProvider]:
        return self._providers.by_name

    async def find_given_up(self, ref: CallRef) -> VoiceProvider | None:
        """The carrier of a call that was given up, after which another one was tried."""
        record = await self._store.find_by_id(ref.verification_id)
        given_up = record.given_up if record is not None else ()
        names = [call.provider for call in given_up if call.number == ref.number]
        return self._providers.by_name[names[0]] if names else None

    async def end_given_up(self, ref: CallRef, provider: VoiceProvider, event: CallEvent) -> None:
        """Hang up a call that turned up after it was given up: another one rings, or has rung, for it."""
        details = {"verification": short_id(ref.verification_id), "call": ref.number, "provider": provider.name}
        logger.warning("given up call turned up", extra=details)
        is_over = event.state is CallState.COMPLETED or not event.call_id
        if not is_over and provider.capabilities.hangs_up:
            await hang_up_if_possible(provider, event.call_id, HANG_UP_SECONDS)

    async def check_replay(self, current: CallInProgress, nonce: str, content: bytes, *, has_token: bool) -> bool:
        """Whether a signed callback came before; with other content under its nonce it is refused.

        Where no token in the signed path names the call, a nonce is good for one of all the carrier's calls.
        Raises: WebhookRejected, StoreUnavailable.
        """
        digest = sha256(content).digest()
        scopes = [f"{current.ref.verification_id}/{current.ref.number}"]
        if not has_token:
            scopes.append(current.provider.name)
        seconds = current.call.ring_timeout_seconds + current.call.time_limit_seconds + TOKEN_GRACE_SECONDS
        is_replay = False
        for scope in scopes:
            first = await self._guard_store.remember(f"nonce/{scope}/{nonce}", digest, 2.0 * seconds)
            if first not in (None, digest):
                raise WebhookRejected("callback has the nonce of another callback", status=401)
            is_replay |= first is not None
        return is_replay

    async def on_call_event(self, current: CallInProgress, event: CallEvent) -> None:
        """Take in what a carrier reports. A callback that names another call than ours is refused.

        Raises: WebhookRejected, StoreUnavailable.
        """
        try:
            await self._events.take_in(current.record, current.call, event)
        except OtherCall as error:
            raise WebhookRejected(f"callback is about another call: {error}") from None

    async def answer(self, current: CallInProgress, event: CallEvent, place: Place) -> Said | None:
        """What the callee hears after answering, or after asking to hear the code again.

        None for an event that is no reason to speak. Raises: WebhookRejected, StoreUnavailable.
        """
        await self.on_call_event(current, event)
        if event.state is not CallState.ANSWERED:
            return None
        return await self._conversation.answer(current, place)

    async def choice(self, current: CallInProgress, event: CallEvent, place: Place) -> Said | None:
        """What comes after something was said, with the keys that the event tells of.

        None for an event that is no reason to speak. Raises: WebhookRejected, StoreUnavailable, NumberLocked.
        """
        await self.on_call_event(current, event)
        if event.state is not CallState.ANSWERED:
            return None
        return await self._conversation.choice(current, event.digits, place)

    def apology(self, current: CallInProgress) -> Said:
        """What a callee hears when something is wrong here."""
        return self._conversation.apology(current)
