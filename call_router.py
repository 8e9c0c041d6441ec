"""Which carriers could place a call, and which of them is to: by region, ability, health and pace."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from call_script import Manner
from carrier_line import CarrierLine, LineHealth
from language_choice import LanguageChoice
from limit_rules import Reservation
from phone_numbers import region_of
from script_writer import ScriptWriter
from send_order import SendOrder, UnsupportedOption
from verification import Mode, NewCall
from voice_provider import (
    USUAL_VOICES,
    Capabilities,
    MachineDetection,
    ProviderThrottled,
    ProviderUnavailable,
    VoiceProvider,
)


class CarriersDown(ProviderUnavailable):
    """No carrier is asked at present; the first one will be again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How calls are placed, whoever asks for them. `routes` has the order of carriers for single regions."""

    ring_timeout_seconds: int
    time_limit_seconds: int
    machine_detection: MachineDetection
    deadline_seconds: float
    routes: Mapping[str, tuple[str, ...]]


class Candidate(NamedTuple):
    """A carrier that can do what is asked for, and how it would speak."""

    provider: VoiceProvider
    line: CarrierLine
    language: str
    is_recorded: bool = False


class Choice(NamedTuple):
    """Who is to place a call: now, with a turn, or, without one, when it comes."""

    candidate: Candidate
    turn: Reservation | None


def _has_voice(order: SendOrder, candidate: "Candidate") -> bool:
    voices = candidate.provider.capabilities.voices
    return not order.voice or order.voice in USUAL_VOICES or order.voice in voices


class CallRouter:
    def __init__(
        self,
        carriers: Sequence[tuple[VoiceProvider, CarrierLine]],
        languages: LanguageChoice,
        writer: ScriptWriter,
        policy: CallPolicy,
    ) -> None:
        self._languages = languages
        self._carriers = {provider.name: (provider, line) for provider, line in carriers}
        self._writer = writer
        self._policy = policy
        self._manners: dict[Manner, Manner] = {}

    @property
    def names(self) -> list[str]:
        return list(self._carriers)

    @property
    def deadline_seconds(self) -> float:
        """In which a call has been placed, or not."""
        return self._policy.deadline_seconds

    def health(self) -> list[LineHealth]:
        return [line.health() for _, line in self._carriers.values()]

    async def close(self) -> None:
        """Send away the calls that wait for their turns."""
        for _, line in self._carriers.values():
            await line.close()

    def provider(self, name: str) -> VoiceProvider:
        return self._carriers[name][0]

    def candidates(self, order: SendOrder) -> list[Candidate]:
        """The carriers that can do what an order asks for, in the order in which they are to be tried.

        Raises: UnsupportedOption that names what none of them can do.
        """
        able = [self._carriers[name] for name in self._names(order)]
        for option, is_met in _needs(order).items():
            names = [provider.name for provider, _ in able]
            able = [(provider, line) for provider, line in able if is_met(provider.capabilities)]
            if not able:
                raise UnsupportedOption(option, f"is not possible with {', '.join(names)}")
        if order.language is not None and not self._languages.knows(order.language):
            raise UnsupportedOption("language", f"must be one of {', '.join(self._languages.known)}")
        found = [one for provider, line in able if (one := self._candidate(order, provider, line)) is not None]
        if not found:
            raise UnsupportedOption(*self._unspoken(order, able))
        return sorted(found, key=lambda one: (not self._is_wanted(order, one), not _has_voice(order, one)))

    def _candidate(self, order: SendOrder, provider: VoiceProvider, line: CarrierLine) -> Candidate | None:
        """How a carrier would speak: in recordings before its own voices, unless one of those is wanted."""
        can_play = provider.capabilities.plays_audio and order.mode is not Mode.ALERT
        recorded = self._writer.recorded_languages if can_play else ()
        voiced = provider.capabilities.languages
        spoken = (*voiced, *recorded) if order.voice else (*recorded, *voiced)
        if order.mode is Mode.ALERT:
            spoken = self._writer.languages_of_alert(order.template, spoken)
        language = self._languages.choose(order.language, order.phone, spoken)
        if language is None:
            return None
        is_voiced = order.voice and language in voiced
        recording = None if is_voiced else self._languages.match(language, recorded)
        return Candidate(provider, line, recording or language, is_recorded=recording is not None)

    def _is_wanted(self, order: SendOrder, candidate: Candidate) -> bool:
        """Whether a carrier speaks the language that was asked for: those that do go before the others."""
        return order.language is None or bool(self._languages.match(order.language, (candidate.language,)))

    def _unspoken(self, order: SendOrder, able: Sequence[tuple[VoiceProvider, CarrierLine]]) -> tuple[str, str]:
        """The field and what is wrong with it."""
        words = "; ".join(
            f"{provider.name}, which speaks {', '.join(provider.capabilities.languages)}" for provider, _ in able
        )
        if order.mode is Mode.ALERT:
            texts = ", ".join(self._writer.texts_of_alert(order.template))
            return "template", f"has texts in {texts} only, which cannot be spoken by {words}"
        return "language", f"cannot be spoken by {words}"

    def _names(self, order: SendOrder) -> Sequence[str]:
        if order.provider is None:
            return self._policy.routes.get(region_of(order.phone) or "") or tuple(self._carriers)
        if order.provider not in self._carriers:
            raise UnsupportedOption("provider", f"must be one of {', '.join(self._carriers)}")
        return (order.provider,)

    async def choose(self, candidates: Sequence[Candidate], longest_wait_seconds: float) -> Choice:
        """The first carrier that can be asked now, else the one whose queue is shortest.

        Raises: ProviderUnavailable when all are down, ProviderThrottled when every queue is too long.
        """
        for candidate in candidates:
            turn = await candidate.line.take_turn()
            if turn is not None:
                return Choice(candidate, turn)
        admitting = [one for one in candidates if not one.line.breaker.seconds_closed_off]
        if not admitting:
            wait = min(one.line.breaker.seconds_closed_off for one in candidates)
            raise CarriersDown("no carrier works at present; nothing was dialled", math.ceil(wait))
        shortest = (await self.by_wait(admitting))[0]
        wait = await shortest.line.expected_wait_seconds()
        if wait > longest_wait_seconds:
            retry_after_seconds = math.ceil(min(wait, longest_wait_seconds) / 2)
            raise ProviderThrottled("more calls wait than can be placed in time", retry_after_seconds)
        return Choice(shortest, None)

    async def by_wait(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Shortest queue first."""
        waits = [await one.line.expected_wait_seconds() for one in candidates]
        return [one for _, one in sorted(zip(waits, candidates, strict=True), key=lambda pair: pair[0])]

    def new_call(self, order: SendOrder, candidate: Candidate, queue_seconds: float = 0) -> NewCall:
        """What a call through a candidate is begun with; `queue_seconds` is how long it may wait at the most."""
        code_length = len(order.code) if order.code and order.mode is not Mode.ALERT else order.code_length
        capabilities = candidate.provider.capabilities
        limit_seconds = self._policy.time_limit_seconds
        manner = self._writer.fitted(order.mode, self._manner(order, candidate), code_length, limit_seconds)
        manner = self._manners.setdefault(manner, manner)  # few are in use, and a million calls are kept
        needed_seconds = self._writer.whole_call_seconds(order.mode, code_length, manner)
        return NewCall(
            provider=candidate.provider.name,
            from_number=candidate.provider.from_number,
            manner=_shared(manner),
            ring_timeout_seconds=self._policy.ring_timeout_seconds,
            # As long as this call can last with all its replays, but never longer than the policy allows.
            time_limit_seconds=min(math.ceil(needed_seconds), limit_seconds),
            first_reading_seconds=self._writer.first_reading_seconds(order.mode, code_length, manner),
            code_length=code_length,
            hide_caller_id=order.hide_caller_id,
            is_pinned=order.provider is not None,
            queue_seconds=queue_seconds,
            reports_progress=capabilities.reports_progress,
        )

    def _manner(self, order: SendOrder, candidate: Candidate) -> Manner:
        keys_first = order.keys_first if order.mode is Mode.SPEAK else 0
        # Where keys come first, they take the time in which a machine is told of.
        waits = self._policy.machine_detection is MachineDetection.NO_CODE and order.mode is Mode.SPEAK
        return Manner(
            language=candidate.language,
            prompts=order.prompts,
            voice=order.voice,
            is_recorded=candidate.is_recorded,
            max_replays=min(order.max_replays, candidate.provider.capabilities.max_replays),
            auto_replay=order.auto_replay,
            keys_first=keys_first,
            verdict_seconds=candidate.provider.capabilities.verdict_seconds if waits and not keys_first else 0,
            template=order.template,
        )


@lru_cache(maxsize=4096)
def _shared(manner: Manner) -> Manner:
    """One object for all calls that speak alike: a million of them are kept."""
    return manner


def _needs(order: SendOrder) -> Mapping[str, Callable[[Capabilities], bool]]:
    """What an order asks for beyond an ordinary call, and which carriers can do it."""
    needs: dict[str, Callable[[Capabilities], bool]] = {}
    if order.hide_caller_id:
        needs["hide_caller_id"] = lambda can: can.hides_caller_id
    if order.mode is Mode.KEYPAD:
        needs["mode"] = lambda can: can.takes_codes
    if order.mode is Mode.ALERT:
        needs["template"] = lambda can: can.tells_alerts
    if order.keys_first and order.mode is Mode.SPEAK:
        needs["require_keypress"] = lambda can: can.asks_for_keys
    if order.voice:
        needs["voice"] = lambda can: can.chooses_voice
    return needs
