"""The parts of the service, put together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import setting_values
from call_events import CallEvents
from call_flow import CallFlow
from call_links import CallLinks
from call_placer import CallPlacer
from call_router import CallPolicy, CallRouter
from carrier_line import CarrierLine, LineLimits
from clock import Clock
from conversation import Conversation
from dialer import Dialer
from jobs import Dial, Redial, dial_lane
from otp_service import OtpService
from otp_store import OtpStore
from protection import Protection
from redial import RedialPolicy, Redials
from redialer import Redialer
from sealing import Sealer
from settings import Settings
from sms_provider import SmsProvider
from speech import Speech, open_speech
from stores import Stores
from text_messages import TextMessages
from timekeeper import Timekeeper
from voice_provider import Providers, VoiceProvider


class Services(NamedTuple):
    """What the routes are made of."""

    otp: OtpService
    flow: CallFlow
    texts: TextMessages
    router: CallRouter
    placer: CallPlacer
    timekeeper: Timekeeper
    speech: Speech


def open_services(
    settings: Settings,
    clients: Sequence[VoiceProvider],
    texters: Mapping[str, SmsProvider],
    protection: Protection,
    stores: Stores,
) -> Services:
    clock, store, jobs = stores.clock, stores.otp, stores.jobs
    sealer = Sealer(settings.otp_secrets)
    url = settings.base_url
    links = CallLinks(sealer, url, settings.fallback_public_url or url)
    speech = open_speech(settings, settings.otp_secrets, clock, clients)
    languages, writer = speech.languages, speech.writer
    policy = CallPolicy(
        ring_timeout_seconds=settings.ring_timeout_seconds,
        time_limit_seconds=settings.call_time_limit_seconds,
        machine_detection=settings.machine_detection,
        deadline_seconds=settings.provider_deadline_seconds,
        routes=setting_values.routes(settings.provider_routes),
    )
    lines = [_line(settings, clock, client.name, store, protection) for client in clients]
    router = CallRouter(list(zip(clients, lines, strict=True)), languages, writer, policy)
    redials = Redials(_redial_policy(settings), jobs, clock)
    providers = Providers({client.name: client for client in clients})
    events = CallEvents(store, providers, protection.guard, redials)
    dialer = Dialer(router, store, events, writer, links, sealer, policy, clock)
    texts = TextMessages(texters, store, languages, writer, links, settings.provider_deadline_seconds, clock)
    conversation = Conversation(store, writer, links, sealer, protection.guard)
    flow = CallFlow(store, providers, conversation, links, events, protection.store, clock)
    placer = CallPlacer(store, router, dialer, protection.guard, jobs, clock)
    service = OtpService(store, router, placer, texts, protection, clock)
    redialer = Redialer(service, placer, router, store, protection.guard, redials, clock)
    jobs.on(Dial, placer.dial_queued, [dial_lane(name) for name in router.names])
    jobs.on(Redial, redialer.redial, [Redial.name])
    timekeeper = Timekeeper(router, store, events, protection, clock)
    return Services(service, flow, texts, router, placer, timekeeper, speech)


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
