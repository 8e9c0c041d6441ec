"""What an operator is told at the start: carriers, addresses, and what is not protected."""

from collections.abc import Iterable

import setting_values
from abuse_guard import MONEY
from protection import guard_policy
from settings import LOOPBACK_HOSTS, Settings, is_tunnel
from voice_provider import MachineDetection, SignaturePolicy

# tests/test_carrier_registry.py holds both to the clients.
WITHOUT_MACHINE_DETECTION = frozenset({"phlo", "cm"})
WITHOUT_SIGNATURES = frozenset({"phlo", "cm"})


def banner(settings: Settings) -> str:
    """What an operator should know at the start: carrier, addresses, and what is not protected."""
    url = settings.base_url
    names = ", ".join(settings.provider_names)
    simulated = " (simulated)" if settings.simulate else ""
    lines = [f"voice-otp  carrier: {names}{simulated}  public URL: {url}  answer URL: {url}/answer"]
    if settings.redis_address:
        workers = f"{settings.workers} workers" if settings.workers > 1 else "1 worker"
        lines.append(f"           {workers}, Redis at {settings.redis_address}")
    if settings.uses_simulator:
        lines.append(f"           a phone in your browser: http://localhost:{settings.http_port}/phone")
    if not settings.uses_simulator:
        policy = guard_policy(settings)
        lines.append(
            f"           spending limits: {settings.spend_per_hour} an hour, {settings.spend_per_day} a day, "
            f"at {policy.highest_price / MONEY:g} for a call without a price"
        )
    lines += [f"           not protected: {risk}" for risk in _risks(settings)]
    return "\n".join(lines)


def _lets_unsigned_in(settings: Settings) -> bool:
    """Vobiz signs only what it is configured to sign; all other carriers' default is safe."""
    policy = settings.webhook_signatures
    is_default = policy is None and "vobiz" in settings.provider_names
    return is_default or policy is SignaturePolicy.WHEN_PRESENT


def _risks(settings: Settings) -> list[str]:
    risks = []
    if settings.is_open:
        what = "simulated calls" if settings.uses_simulator else "calls"
        risks.append(f"no API_KEYS are set: anyone who reaches this port can place {what}")
    if not settings.uses_simulator and _lets_unsigned_in(settings):
        risks.append("callbacks without signature are let in by their call token (WEBHOOK_SIGNATURES)")
    if not settings.uses_simulator:
        risks += _what_carriers_lack(settings)
    if not settings.uses_simulator and settings.allowed_regions == setting_values.EVERYWHERE:
        risks.append("every region may be called (ALLOWED_REGIONS)")
    if not settings.uses_simulator and not settings.operator_keys.get_secret_value():
        risks.append("there is no kill switch (OPERATOR_KEYS)")
    if not settings.uses_simulator and not _has_ceiling(settings):
        risks.append("nothing limits what is spent on calls (SPEND_PER_HOUR, SPEND_PER_DAY, CALL_PRICES)")
    if settings.redis_address:
        risks += _what_redis_lacks(settings.redis_url.get_secret_value())
    if is_tunnel(settings.public_url):
        risks.append("calls pass through a tunnel, whose operator can read the codes; use it for development only")
    return risks


def _what_redis_lacks(url: str) -> list[str]:
    from redis_address import address_of  # only here, as in `stores.py`

    address = address_of(url)
    if address.tls is not None:
        return [] if address.tls.is_checked else ["the certificate of Redis is not looked at (ssl_cert_reqs)"]
    if address.path is not None or address.host in LOOPBACK_HOSTS:
        return []
    return ["Redis is spoken to in clear, with its password: use rediss:// or a private network"]


def _what_carriers_lack(settings: Settings) -> list[str]:
    """What was asked for and some of the carriers cannot do, while others may."""
    risks = []
    unsigned = _those_in(WITHOUT_SIGNATURES, (*settings.provider_names, *settings.sms_provider_names))
    if unsigned and settings.webhook_signatures is SignaturePolicy.REQUIRED:
        risks.append(
            f"callbacks of {unsigned} are let in by their token, as they sign nothing (WEBHOOK_SIGNATURES)"
        )
    undetecting = _those_in(WITHOUT_MACHINE_DETECTION, settings.provider_names)
    if undetecting and settings.machine_detection is not MachineDetection.OFF:
        risks.append(f"machines hear the code in calls of {undetecting}, which knows none (MACHINE_DETECTION)")
    return risks


def _those_in(group: frozenset[str], names: Iterable[str]) -> str:
    return ", ".join(name for name in dict.fromkeys(names) if name in group)


def _has_ceiling(settings: Settings) -> bool:
    policy = guard_policy(settings)
    return policy.highest_price > 0 and (policy.spend_per_hour > 0 or policy.spend_per_day > 0)
