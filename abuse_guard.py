"""Who may be called, how often, and for how much money: asked before every call.

Fixed rules come first (blocks, regions, line types), then what is counted (per number, prefix, region and client,
and money), all of it reserved in one step before the call and taken back when nothing was dialled. A refusal says
little to its caller; which rules fired is in the log.

    SendRefused
    ├── DestinationNotAllowed   never: region, line type, or a block without an end
    ├── SendingStopped          an operator stopped all calls, or those of this client
    └── LimitReached            later: `retry_after_seconds`
        └── SpendingLimitReached
"""

import logging
import math
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from clock import Clock
from guard_store import Block, GuardStore
from limit_rules import Charge, Exceeded, Reservation, Rule, Window, rule
from otp_store import StoreUnavailable
from phone_numbers import REGIONS, InvalidPhone, LineType, Number, line_key, mask, number_of
from verification import Mode, Verification

logger = logging.getLogger(__name__)

# Numbers of these kinds cost whom they like, or reach no person: no setting opens them. Numbers that belong to no
# region (+800, +870, +878, +881, +882, +883, +888, +979) are refused with them.
DENIED_LINE_TYPES = frozenset(LineType) - {
    LineType.MOBILE,
    LineType.FIXED_LINE,
    LineType.FIXED_LINE_OR_MOBILE,
    LineType.VOIP,
}
PREFIX_CUT = 4  # a prefix is a number without its last four digits
REGION_SHARE_FACTOR = 10  # a whole region is judged by ten times the verifications of a prefix
CONVERSION_GRACE_SECONDS = 120.0  # hearing and typing takes about a minute: younger verifications are not judged
MONEY = 1_000_000  # prices and ceilings are counted in millionths

TARGET_WORDS = "all, client:<name>, region:<ISO 3166> or prefix:+<digits>"
_CLIENT_QUOTA = "client"
_TARGET = re.compile(r"all|client:[a-z0-9_-]{1,32}|region:[A-Z]{2}|prefix:\+[1-9][0-9]{0,14}")


class SendRefused(Exception):
    """`rules` are the names of those that fired, for the log only."""

    def __init__(self, rules: Sequence[str]) -> None:
        super().__init__(f"refused by {', '.join(rules)}")
        self.rules = rules


class DestinationNotAllowed(SendRefused):
    pass


class SendingStopped(SendRefused):
    pass


class Quota(NamedTuple):
    """How much of a limit is left, as the RateLimit header fields tell it."""

    name: str
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class LimitReached(SendRefused):
    """`retry_after_seconds` is None when waiting does not help, as for a price above the ceiling."""

    def __init__(
        self, rules: Sequence[str], retry_after_seconds: float | None, quota: Quota | None = None
    ) -> None:
        super().__init__(rules)
        self.retry_after_seconds = None if retry_after_seconds is None else math.ceil(retry_after_seconds)
        self.quota = quota


class SpendingLimitReached(LimitReached):
    pass


class Monitor(StrEnum):
    """What to do about a destination with too low a verified share."""

    OFF = "off"
    RECORD = "record"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """What an operator may set. A limit of 0 is none; money is in millionths of the operator's currency.

    `allowed_regions` is None where every region may be called. `prices` are per call and region, the highest one
    standing for regions without a price.
    """

    allowed_regions: frozenset[str] | None = None
    allowed_line_types: frozenset[LineType] = frozenset(LineType) - DENIED_LINE_TYPES - {LineType.VOIP}
    blocked: frozenset[str] = frozenset()
    safe_prefixes: tuple[str, ...] = ()
    cooldown_seconds: int = 30
    sends_per_ten_minutes: int = 5
    sends_per_day: int = 10
    prefix_sends_per_hour: int = 20
    region_sends_per_hour: int = 500
    client_sends_per_hour: int = 1000
    client_quotas: Mapping[str, int] = field(default_factory=dict)
    block_seconds: int = 43_200
    prices: Mapping[str, int] = field(default_factory=dict)
    highest_price: int = MONEY
    spend_per_hour: int = 100 * MONEY
    spend_per_day: int = 500 * MONEY
    client_spend_per_hour: int = 0
    client_spend_per_day: int = 0
    conversion_monitor: Monitor = Monitor.BLOCK
    least_verified_share: float = 0.35
    least_verifications: int = 20


def block_target(text: str) -> str:
    """What a block is on: `all`, `client:<name>`, `region:<ISO 3166>`, `prefix:+<digits>`. Raises: ValueError."""
    is_unknown_region = text.startswith("region:") and text[7:] not in REGIONS
    if is_unknown_region or not _TARGET.fullmatch(text):
        raise ValueError(f"must be {TARGET_WORDS}")
    return text


class AbuseGuard:
    """Asked before every call. Each question may raise StoreUnavailable, and then nobody is called."""

    def __init__(self, store: GuardStore, policy: GuardPolicy, clock: Clock) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._limits = _Limits(policy)

    async def check_destination(self, client: str, phone: str) -> None:
        """Refuse what may never be called, or not before an operator allows it. Counts nothing.

        Raises: DestinationNotAllowed, SendingStopped, LimitReached.
        """
        number = number_of(phone)
        fired = _forbidden(number, self._policy)
        blocks = await self._blocks_on(client, number)
        if fired:
            raise self._refused(DestinationNotAllowed([*fired, *_reasons(blocks)]), client, number)
        if blocks:
            raise self._refused(_blocked(blocks, self._clock.now()), client, number)

    async def _blocks_on(self, client: str, number: Number) -> list[Block]:
        targets = ["all", f"client:{client}", *_destination_targets(number)]
        fixed = [Block(target, "setting") for target in targets if target in self._policy.blocked]
        return fixed + await self._store.blocks_among(targets)

    async def reserve(self, client: str, phone: str) -> Reservation:
        """Count one call against every limit at once, or against none of them.

        Raises: LimitReached, which also blocks a destination that drew too many calls or too few right codes.
        """
        number = number_of(phone)
        is_safe = self._is_safe(phone)
        if not is_safe and self._policy.conversion_monitor is not Monitor.OFF:
            await self._check_conversion(client, number)
        answer = await self._store.reserve(self._limits.charges(client, number, is_safe=is_safe))
        if isinstance(answer, Reservation):
            return answer
        refusal = _limit_reached(answer)
        if self._policy.block_seconds and any(one.charge.rule.name == "prefix" for one in answer):
            block = await self._block(_prefix_target(number), "velocity")
            refusal = _lengthened(refusal, block, self._clock.now())
        raise self._refused(refusal, client, number)

    def reservation_at(self, client: str, phone: str, at: float) -> Reservation:
        """What `reserve` counted for a call then, for who kept no more of it than its time."""
        return Reservation(self._limits.charges(client, number_of(phone), is_safe=self._is_safe(phone)), at)

    def _is_safe(self, phone: str) -> bool:
        return phone.startswith(self._policy.safe_prefixes) if self._policy.safe_prefixes else False

    async def refund(self, reservation: Reservation, *, keep_client_quota: bool = False) -> None:
        """Take a reservation back, as nothing was dialled.

        A client's own quota may keep it: what its carrier refuses all the time is no free request.
        """
        if keep_client_quota:
            kept = [charge for charge in reservation.charges if charge.rule.name != _CLIENT_QUOTA]
            reservation = Reservation(kept, reservation.at)
        await self._store.refund(reservation)

    async def quota(self, client: str) -> Quota | None:
        """What a client has left of its sends per hour; None without such a limit."""
        for client_rule in self._limits.of_client(client):
            window = client_rule.windows[0]
            remaining, reset = await self._store.room(Charge(client_rule, client))
            return Quota(client_rule.name, window.limit, int(window.seconds), remaining, reset)
        return None

    async def on_placing(self, record: Verification) -> None:
        """Count a call that is about to be placed towards its destination's share."""
        await self._tally(record, begun=1)

    async def on_carrier_failure(self, record: Verification) -> None:
        """Leave out of the share what the carrier refused, or could not put through."""
        await self._tally(record, begun=-1)

    @staticmethod
    async def count_if_possible(counting: Awaitable[None]) -> None:
        """A destination's share is counted beside the call: a call and an accepted code stand without it."""
        try:
            await counting
        except StoreUnavailable as error:
            logger.warning("the store cannot answer: %s", error)

    async def on_verified(self, record: Verification, refund: Reservation | None = None) -> None:
        """What the check had reserved is refunded at the same time. Raises: StoreUnavailable."""
        await self._tally(record, verified=1, refund=refund)

    async def _tally(
        self, record: Verification, *, begun: int = 0, verified: int = 0, refund: Reservation | None = None
    ) -> None:
        is_counted = self._policy.conversion_monitor is not Monitor.OFF and record.mode is not Mode.ALERT
        if not is_counted or self._is_safe(record.phone):
            if refund is not None:
                await self._store.refund(refund)
            return
        targets = _share_targets(number_of(record.phone))
        await self._store.tally(targets, record.created_at, begun=begun, verified=verified, refund=refund)

    async def _check_conversion(self, client: str, number: Number) -> None:
        """Refuse, or only record, a call to where too few codes come back. Raises: LimitReached."""
        least = self._policy.least_verifications
        targets = _share_targets(number)
        shares = await self._store.shares(targets, CONVERSION_GRACE_SECONDS)
        for target, share, volume in zip(targets, shares, (least, least * REGION_SHARE_FACTOR), strict=True):
            if share.begun < volume or share.verified >= self._policy.least_verified_share * share.begun:
                continue
            if self._policy.conversion_monitor is Monitor.RECORD:
                details = {"target": target, "verifications": share.begun, "verified": share.verified}
                logger.warning("would block a destination: few codes come back", extra=details)
                continue
            block = await self._block(target, "conversion")
            raise self._refused(_blocked([block], self._clock.now()), client, number)

    async def _block(self, target: str, reason: str) -> Block:
        block = await self._store.strike(target, reason, self._policy.block_seconds)
        logger.error("destination blocked", extra={"target": target, "reason": reason})
        return block

    @staticmethod
    def _refused(refusal: SendRefused, client: str, number: Number) -> SendRefused:
        details = {
            "client": client,
            "phone": mask(number.e164),
            "region": number.region,
            "rules": list(refusal.rules),
        }
        logger.warning("send refused", extra=details)
        return refusal

    async def block(self, target: str) -> Block:
        """Stop calls to or for a target until it is lifted: at once, for all that share the store."""
        block = Block(block_target(target), "operator")
        await self._store.block(block)
        logger.warning("blocked by an operator", extra={"target": _shown(target)})
        return block

    async def unblock(self, target: str) -> bool:
        """Whether there was a block to lift; those of the settings stay."""
        was_blocked = await self._store.unblock(target)
        if was_blocked:
            logger.warning("block lifted by an operator", extra={"target": _shown(target)})
        return was_blocked

    async def blocks(self) -> list[Block]:
        fixed = [Block(target, "setting") for target in sorted(self._policy.blocked)]
        return fixed + await self._store.blocks()


class _Limits:
    """The policy's limits, ready to be charged."""

    def __init__(self, policy: GuardPolicy) -> None:
        self._policy = policy
        self._number = _rules(
            "number",
            (1 if policy.cooldown_seconds else 0, policy.cooldown_seconds),
            (policy.sends_per_ten_minutes, 600),
            (policy.sends_per_day, 86_400),
            has_many_subjects=True,
        )
        self._prefix = _rules("prefix", (policy.prefix_sends_per_hour, 3600))
        self._region = _rules("region", (policy.region_sends_per_hour, 3600))
        self._client = _rules(_CLIENT_QUOTA, (policy.client_sends_per_hour, 3600))
        self._client_by_name = {
            name: _rules(_CLIENT_QUOTA, (quota, 3600)) for name, quota in policy.client_quotas.items()
        }
        self._spending = [
            *_rules("spending-hour", (policy.spend_per_hour, 3600)),
            *_rules("spending-day", (policy.spend_per_day, 86_400)),
        ]
        self._client_spending = [
            *_rules("client-spending-hour", (policy.client_spend_per_hour, 3600)),
            *_rules("client-spending-day", (policy.client_spend_per_day, 86_400)),
        ]

    def of_client(self, client: str) -> list[Rule]:
        return self._client_by_name.get(client, self._client)

    def charges(self, client: str, number: Number, *, is_safe: bool) -> list[Charge]:
        region = number.region or ""
        charges = [
            *(Charge(rule, line_key(number.e164)) for rule in self._number),
            *(Charge(rule, _prefix(number)) for rule in self._prefix if not is_safe),
            *(Charge(rule, region) for rule in self._region),
            *(Charge(rule, client) for rule in self.of_client(client)),
        ]
        price = self._policy.prices.get(region, self._policy.highest_price)
        if price:
            charges += [Charge(rule, "all", price) for rule in self._spending]
            charges += [Charge(rule, client, price) for rule in self._client_spending]
        return charges


def _rules(name: str, *windows: tuple[int, int], has_many_subjects: bool = False) -> list[Rule]:
    """One rule of the windows that have a limit; none when none of them has."""
    limited = [Window(limit, seconds) for limit, seconds in windows if limit]
    return [rule(name, *limited, has_many_subjects=has_many_subjects)] if limited else []


def _forbidden(number: Number, policy: GuardPolicy) -> list[str]:
    fired = []
    if number.region is None:
        fired.append("non_geographic")
    elif policy.allowed_regions is not None and number.region not in policy.allowed_regions:
        fired.append("region")
    if number.line_type in DENIED_LINE_TYPES or number.line_type not in policy.allowed_line_types:
        fired.append("line_type")
    return fired


def _prefix(number: Number) -> str:
    """Of a line, so that a second spelling of its number is no way around."""
    return line_key(number.e164)[:-PREFIX_CUT]


def _prefix_target(number: Number) -> str:
    return f"prefix:{_prefix(number)}"


def _region_target(number: Number) -> str:
    return f"region:{number.region}"


def _share_targets(number: Number) -> tuple[str, str]:
    """Those whose shares of right codes are judged."""
    return _prefix_target(number), _region_target(number)


def _destination_targets(number: Number) -> Iterable[str]:
    yield _region_target(number)
    for spelling in dict.fromkeys((number.e164, line_key(number.e164))):
        for length in range(2, len(spelling) + 1):
            yield f"prefix:{spelling[:length]}"


def _shown(target: str) -> str:
    """What a log line may say of a target: a prefix can be a whole number."""
    kind, _, prefix = target.partition(":")
    try:
        return f"{kind}:{mask(number_of(prefix).e164)}" if kind == "prefix" else target
    except InvalidPhone:
        return target


def _reasons(blocks: Iterable[Block]) -> list[str]:
    return [f"block {block.target.partition(':')[0]} ({block.reason})" for block in blocks]


def _blocked(blocks: Sequence[Block], now: float) -> SendRefused:
    rules = _reasons(blocks)
    if any(block.target == "all" or block.target.startswith("client:") for block in blocks):
        return SendingStopped(rules)
    ends = [block.until for block in blocks]
    if None in ends:
        return DestinationNotAllowed(rules)
    return LimitReached(rules, max(end for end in ends if end is not None) - now)


def _limit_reached(exceeded: Sequence[Exceeded]) -> LimitReached:
    """What takes longest decides; a spending limit is named as one, for it is the operator who must act."""
    rules = [one.charge.rule.name for one in exceeded]
    worst = max(exceeded, key=lambda one: math.inf if one.retry_after_seconds is None else one.retry_after_seconds)
    wait = worst.retry_after_seconds
    if "spending" in worst.charge.rule.name:
        return SpendingLimitReached(rules, wait)
    return LimitReached(rules, wait, quota_of(worst))


def _lengthened(refusal: LimitReached, block: Block, now: float) -> LimitReached:
    """The refusal that set off a block, which may outlast the limit: a wait that is told has to be enough."""
    wait = refusal.retry_after_seconds
    if wait is None or block.until is None:
        return refusal
    longest = max(wait, block.until - now)
    return type(refusal)([*refusal.rules, *_reasons([block])], longest, refusal.quota)


def quota_of(exceeded: Exceeded) -> Quota:
    """A limit that is used up."""
    window, wait = exceeded.window, exceeded.retry_after_seconds
    return Quota(exceeded.charge.rule.name, window.limit, int(window.seconds), 0, math.ceil(wait or 0))
