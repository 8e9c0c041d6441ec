"""The parts of the service, put together."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import setting_values
from call_events import CallEvents
from call_flow import CallFlow
from call_links import CallLinks
from call_placer import CallPlacer
from call_router import CallPolicy, CallRouter
from call_script import ScriptWriter, SpokenTexts, load_spoken_texts
from carrier_line import CarrierLine, LineLimits
from clock import Clock
from dialer import Dialer
from otp_service import OtpService
from otp_store import MemoryOtpStore, OtpStore, StoreRules
from prompt_sets import known_prompts
from prompts_file import PromptsFile, load
from protection import Protection
from redial import RedialPolicy, Redials
from sealing import Sealer
from settings import BadSettings, MachineDetection, ResendCode, Settings
from sms_provider import SmsProvider
from text_messages import TextMessages
from timekeeper import Timekeeper
from voice_provider import Providers, VoiceProvider

SPOKEN_TEXTS = Path(__file__).parent / "spoken_texts"


class Services(NamedTuple):
    """What the routes are made of."""

    otp: OtpService
    flow: CallFlow
    texts: TextMessages
    router: CallRouter
    placer: CallPlacer
    timekeeper: Timekeeper
    prompts: PromptsFile


def open_services(
    settings: Settings,
    clock: Clock,
    clients: Sequence[VoiceProvider],
    texters: Mapping[str, SmsProvider],
    protection: Protection,
) -> Services:
    sealer = Sealer(settings.otp_secrets or (secrets.token_urlsafe(32),))
    rules = StoreRules(
        max_attempts=settings.max_attempts,
        max_failures_per_number=settings.max_failures_per_number,
        replace_code_on_resend=settings.resend_code is ResendCode.NEW,
        retention_seconds=settings.status_retention_seconds,
        capacity=settings.store_capacity,
    )
    store = MemoryOtpStore(sealer, clock, rules)
    url = settings.base_url
    links = CallLinks(sealer, url, settings.fallback_public_url or url)
    spoken_texts = load_spoken_texts(SPOKEN_TEXTS)
    prompts = _prompts(settings, spoken_texts)
    writer = ScriptWriter(spoken_texts, settings.app_name, settings.default_language)
    _check_default_language(settings, writer, clients)
    policy = CallPolicy(
        ring_timeout_seconds=settings.ring_timeout_seconds,
        time_limit_seconds=settings.call_time_limit_seconds,
        hang_up_on_machine=settings.machine_detection is MachineDetection.HANGUP,
        deadline_seconds=settings.provider_deadline_seconds,
        routes=setting_values.routes(settings.provider_routes),
    )
    lines = [_line(settings, clock, client.name, store, protection) for client in clients]
    router = CallRouter(list(zip(clients, lines, strict=True)), writer, policy)
    redials = Redials(_redial_policy(settings), clock)
    providers = Providers({client.name: client for client in clients})
    events = CallEvents(store, providers, protection.guard, redials)
    dialer = Dialer(router, store, events, writer, links, policy, clock)
    texts = TextMessages(texters, store, writer, links, settings.provider_deadline_seconds, clock)
    flow = CallFlow(store, providers, writer, links, events, protection.store, clock)
    placer = CallPlacer(store, router, dialer, protection.guard, clock)
    service = OtpService(store, router, placer, texts, protection, clock)
    timekeeper = Timekeeper(service, placer, router, store, events, redials, protection, clock)
    return Services(service, flow, texts, router, placer, timekeeper, prompts)


def _prompts(settings: Settings, spoken_texts: Mapping[str, SpokenTexts]) -> PromptsFile:
    """Raises: BadSettings."""
    known = known_prompts({language: asdict(texts) for language, texts in spoken_texts.items()})
    return load(
        settings.prompts_file, known, settings.app_name, setting_values.client_prompts(settings.client_prompts)
    )


def _redial_policy(settings: Settings) -> RedialPolicy:
    return RedialPolicy(
        reasons=settings.redial_reasons,
        times=settings.redial_times,
        after_seconds=settings.redial_after_seconds,
        through=settings.redial_through.value,
    )


def _line(settings: Settings, clock: Clock, name: str, store: OtpStore, protection: Protection) -> CarrierLine:
    # A simulated account refuses what is too much by itself, as a real one does.
    paced = not settings.uses_simulator or settings.simulate
    calls_per_second = settings.of_carrier(name, "calls_per_second") if paced else 0
    concurrent_calls = settings.of_carrier(name, "concurrent_calls") if paced else 0
    return CarrierLine(name, LineLimits(calls_per_second, concurrent_calls), store, protection.store, clock)


def _check_default_language(settings: Settings, writer: ScriptWriter, clients: Sequence[VoiceProvider]) -> None:
    """One carrier that speaks it is enough: the router passes the others over. Raises: BadSettings."""
    spoken = {
        client.name: writer.choose_language(
            settings.default_language, client.from_number, client.capabilities.languages
        )
        for client in clients
    }
    if not any(spoken.values()):
        languages = dict.fromkeys(tag for client in clients for tag in client.capabilities.languages)
        raise BadSettings(
            [f"DEFAULT_LANGUAGE cannot be spoken by {', '.join(spoken)}: use one of {', '.join(languages)}"]
        )
