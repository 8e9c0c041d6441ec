"""What a callee hears next: the code, the wish for a key before it, a question for a code, or an alert."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from abuse_guard import AbuseGuard
from call_links import CallLinks
from call_log import log_call
from call_script import REPLAY, SILENT_HANGUP, CallScript
from number_page import Outcome
from otp_store import OtpStore
from script_writer import ScriptWriter
from sealing import Sealer
from verification import KEY_TRIES, Call, CallRef, Mode, Status, Verification
from voice_provider import CallUrls, VoiceProvider

REPLAY_KEY = ACKNOWLEDGE_KEY = "1"
MAX_WRONG_KEYS = 2
MAX_SILENCES = 1


@dataclass(frozen=True, slots=True)
class CallInProgress:
    """What a call token, or a carrier's call id, stands for; `is_replay`: in a callback that came before."""

    record: Verification
    call: Call
    provider: VoiceProvider
    is_replay: bool = False

    @property
    def ref(self) -> CallRef:
        return CallRef(self.record.id, self.call.number)


class Place(NamedTuple):
    """Where in a call the carrier is, by the URL that it was told: at a reading, or at a wait for keys."""

    reading: int | None = None
    key_try: int | None = None


class Said(NamedTuple):
    """What the callee hears next, and where the carrier goes from there."""

    script: CallScript
    urls: CallUrls


class Conversation:
    def __init__(
        self,
        store: OtpStore,
        writer: ScriptWriter,
        links: CallLinks,
        sealer: Sealer,
        guard: AbuseGuard,
    ) -> None:
        self._store = store
        self._writer = writer
        self._links = links
        self._sealer = sealer
        self._guard = guard

    async def answer(self, current: CallInProgress, place: Place) -> Said:
        """What is said to a callee who answered, who pressed the right keys, or who wants to hear it again.

        Raises: StoreUnavailable.
        """
        record, call = current.record, current.call
        if not record.is_final and call.is_live and not call.is_machine:
            waits_for_keys = record.mode is Mode.KEYPAD or call.is_locked
            if waits_for_keys and call.key_tries >= KEY_TRIES:
                return self._end(current, self._writer.goodbye(call.manner))
            if record.mode is Mode.KEYPAD:
                return self._ask_for_code(current.ref, call, is_wrong=False)
            if call.is_locked:
                return self._ask_for_keys(current.ref, call)
            if call.manner.verdict_seconds and (place.reading or call.times_spoken + 1) == 1:
                return Said(self._writer.greet_first(call.manner), self._links.urls(current.ref, reading=0))
        return await self._tell(current, place.reading or call.times_spoken + 1)

    async def _tell(self, current: CallInProgress, reading: int) -> Said:
        manner = current.call.manner
        told = await self._store.read_code(*current.ref, reading)
        what = "code not handed out" if told is None else "code handed out"
        log_call(logging.INFO, what, current.record, current.call, {"reading": reading})
        if told is None:
            script = self._instead(current)
        elif current.record.mode is Mode.ALERT:
            script = self._writer.tell_alert(told, manner, reading=reading)
        else:
            script = self._writer.read_code(told, manner, reading=reading)
        return Said(script, self._links.urls(current.ref, reading))

    def _instead(self, current: CallInProgress) -> CallScript:
        """What is said where no code is."""
        manner = current.call.manner
        if current.call.is_machine:
            return self._writer.no_code(manner)
        if current.record.status in (Status.VERIFIED, Status.CANCELLED):
            return SILENT_HANGUP
        return self._writer.apology(manner) if current.record.mode is Mode.SPEAK else self._writer.goodbye(manner)

    async def choice(self, current: CallInProgress, digits: str, place: Place) -> Said:
        """What comes after something was said, with the keys that were pressed, if any.

        Raises: StoreUnavailable, NumberLocked.
        """
        call = current.call
        waits_for_keys = current.record.mode is Mode.KEYPAD or call.is_locked
        key_try = place.key_try
        if key_try is None and place.reading is None and waits_for_keys:
            key_try = call.key_tries
        if key_try is None and place.reading == 0:  # only the greeting was said
            return await self._tell(current, 1)
        if key_try is None:
            return await self._after_reading(current, digits, place.reading or call.readings)
        if current.record.mode is Mode.KEYPAD:
            return await self._after_typing(current, digits, key_try)
        return await self._after_keys(current, digits, key_try)

    # Before a code is told

    def _ask_for_keys(self, ref: CallRef, call: Call) -> Said:
        keys = self._sealer.draw_keys(ref, call.key_tries, call.manner.keys_first)
        script = self._writer.ask_for_keys(keys, call.manner)
        return Said(script, self._links.urls(ref, reading=0, key_try=call.key_tries))

    async def _after_keys(self, current: CallInProgress, digits: str, attempt: int) -> Said:
        wanted = self._sealer.draw_keys(current.ref, attempt, current.call.manner.keys_first)
        record = await self._store.take_keys(*current.ref, attempt, is_right=digits == wanted)
        call = record.live_call if record is not None else None
        if record is None or call is None or record.is_final:
            return self._end(current, SILENT_HANGUP)
        if call.is_machine:
            return self._end(current, self._writer.no_code(call.manner))
        if call.is_unlocked:
            return self._end(current, REPLAY)
        log_call(logging.INFO, "keys not pressed", record, call)
        if call.key_tries < KEY_TRIES:
            return self._ask_for_keys(current.ref, call)
        return self._end(current, self._writer.goodbye(call.manner))

    # A code that is typed on the phone

    def _ask_for_code(self, ref: CallRef, call: Call, *, is_wrong: bool) -> Said:
        script = self._writer.ask_for_code(call.code_length, call.manner, is_wrong=is_wrong)
        return Said(script, self._links.urls(ref, reading=0, key_try=call.key_tries))

    async def _after_typing(self, current: CallInProgress, digits: str, attempt: int) -> Said:
        checked = await self._store.check_typed(*current.ref, attempt, digits)
        record = checked.record
        if record is None:
            return self._end(current, SILENT_HANGUP)
        if checked.outcome is Outcome.CORRECT:
            log_call(logging.INFO, "code typed", record, current.call)
            await self._guard.count_if_possible(self._guard.on_verified(record))
        if record.status is Status.VERIFIED:
            return self._end(current, self._writer.right_code(current.call.manner))
        call = record.live_call
        if call is None or record.is_final or call.key_tries >= KEY_TRIES:
            is_wrong = bool(digits) and checked.outcome is Outcome.INCORRECT
            return self._end(current, self._writer.goodbye(current.call.manner, after_wrong_code=is_wrong))
        return self._ask_for_code(current.ref, call, is_wrong=call.has_typed)

    # After a code, or an alert, was told

    async def _after_reading(self, current: CallInProgress, digits: str, reading: int) -> Said:
        is_first_time = not current.is_replay
        record = await self._store.record_reading_end(
            *current.ref,
            reading,
            wrong_key=is_first_time and digits not in ("", REPLAY_KEY),
            silence=is_first_time and not digits,
        )
        if record is not None and record.call is not None and record.call.times_spoken > current.call.times_spoken:
            log_call(logging.INFO, "code spoken", record, record.call, {"reading": reading})
        if record is not None and record.mode is Mode.ALERT and digits == ACKNOWLEDGE_KEY:
            return await self._acknowledge(current)
        script = self._following(record, digits, reading)
        return Said(script, self._links.urls(current.ref, reading))

    async def _acknowledge(self, current: CallInProgress) -> Said:
        record = await self._store.acknowledge(*current.ref)
        if record is not None:
            log_call(logging.INFO, "alert acknowledged", record, current.call)
        return self._end(current, self._writer.acknowledged(current.call.manner))

    def _following(self, record: Verification | None, digits: str, reading: int) -> CallScript:
        """Again, the offer once more after silence or a wrong key, or goodbye."""
        call = record.live_call if record is not None else None
        if record is None or call is None:
            return SILENT_HANGUP
        manner = call.manner
        if record.is_final or reading > manner.max_replays:
            return self._writer.goodbye(manner)
        if digits == REPLAY_KEY or manner.auto_replay or record.mode is Mode.ALERT:
            return REPLAY
        is_patient = call.wrong_keys <= MAX_WRONG_KEYS if digits else call.silences <= MAX_SILENCES
        return self._writer.menu(manner) if is_patient else self._writer.goodbye(manner)

    def _end(self, current: CallInProgress, script: CallScript) -> Said:
        """Said last, or before the first reading."""
        return Said(script, self._links.urls(current.ref, reading=0))

    def apology(self, current: CallInProgress) -> Said:
        """What a callee hears when something is wrong here."""
        return self._end(current, self._writer.apology(current.call.manner))
