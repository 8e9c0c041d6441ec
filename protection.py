"""What stands between a request and its effect, made of the settings: access, limits, budgets, idempotency."""

from typing import NamedTuple

import setting_values
from abuse_guard import MONEY, AbuseGuard, GuardPolicy
from access import Access
from clock import Clock
from guard_store import GuardStore, MemoryGuardStore
from idempotency import IdempotencyKeys
from request_budgets import RequestBudgets
from sealing import derive_key
from settings import Settings

SIMULATED_PREFIX = "+1415555"  # of the scripted callees: many calls to them are no attack


MAX_REFUSED_ADDRESSES = 100_000


class Protection(NamedTuple):
    """All of it counts in, and remembers with, one store, except that refused keys have one of their own.

    Strangers with many addresses can fill that one, and must not keep clients from sending.
    """

    store: GuardStore
    refused_keys: GuardStore
    guard: AbuseGuard
    budgets: RequestBudgets
    idempotency: IdempotencyKeys
    clients: Access
    operators: Access

    async def expire(self) -> bool:
        """Forget what is of no use any more, some at a time; whether some may be left."""
        some_are_left = await self.store.expire()
        return await self.refused_keys.expire() or some_are_left


def open_protection(settings: Settings, store: GuardStore, clock: Clock) -> Protection:
    refused_keys = MemoryGuardStore(clock, MAX_REFUSED_ADDRESSES)
    budgets = RequestBudgets(
        store,
        client_wrong_codes_per_hour=settings.client_wrong_codes_per_hour,
        wrong_codes_per_day=settings.wrong_codes_per_day,
        reads_per_minute=settings.status_reads_per_minute,
    )
    return Protection(
        store,
        refused_keys,
        AbuseGuard(store, guard_policy(settings), clock),
        budgets,
        IdempotencyKeys(store, _secret_of(settings)),
        clients=_access(settings, settings.api_keys.get_secret_value(), refused_keys),
        # The kill switch must work while somebody tries keys from behind the same proxy.
        operators=_access(
            settings, settings.operator_keys.get_secret_value(), refused_keys, locks_newcomers=False
        ),
    )


def _secret_of(settings: Settings) -> bytes:
    """The same for all processes that share a store, as OTP_SECRET has to be."""
    return derive_key(min(settings.otp_secrets), b"idempotency")  # the same one, in whatever order


def _access(settings: Settings, keys: str, store: GuardStore, *, locks_newcomers: bool = True) -> Access:
    proxies = setting_values.networks(settings.trusted_proxies)
    return Access(setting_values.client_keys(keys), store, proxies, locks_newcomers=locks_newcomers)


def guard_policy(settings: Settings) -> GuardPolicy:
    """With the simulator calls go nowhere and cost nothing, unless the settings say otherwise."""
    prices = setting_values.prices(settings.call_prices)
    safe_prefixes = settings.safe_prefixes or (SIMULATED_PREFIX if settings.uses_simulator else "")
    return GuardPolicy(
        allowed_regions=setting_values.regions(settings.allowed_regions or setting_values.EVERYWHERE),
        allowed_line_types=setting_values.line_types(settings.allowed_line_types),
        blocked=setting_values.block_targets(settings.blocked),
        safe_prefixes=setting_values.prefixes(safe_prefixes),
        cooldown_seconds=settings.resend_after_seconds,
        sends_per_ten_minutes=settings.sends_per_ten_minutes,
        sends_per_day=settings.sends_per_day,
        prefix_sends_per_hour=settings.prefix_sends_per_hour,
        region_sends_per_hour=settings.region_sends_per_hour,
        client_sends_per_hour=settings.client_sends_per_hour,
        client_quotas=setting_values.quotas(settings.client_quotas),
        block_seconds=settings.destination_block_seconds,
        prices=prices,
        highest_price=prices.get("max", 0 if settings.uses_simulator else MONEY),
        spend_per_hour=setting_values.millionths(settings.spend_per_hour),
        spend_per_day=setting_values.millionths(settings.spend_per_day),
        client_spend_per_hour=setting_values.millionths(settings.client_spend_per_hour),
        client_spend_per_day=setting_values.millionths(settings.client_spend_per_day),
        conversion_monitor=settings.conversion_monitor,
        least_verified_share=settings.conversion_min_share,
        least_verifications=settings.conversion_min_verifications,
    )
