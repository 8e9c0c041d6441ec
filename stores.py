"""What the service remembers and still has to do: in one process, or shared by many through Redis."""

from dataclasses import dataclass

from clock import Clock
from guard_store import GuardStore, MemoryGuardStore
from jobs import Jobs, MemoryJobs
from number_page import StoreRules
from otp_store import MemoryOtpStore, OtpStore
from sealing import Sealer
from settings import ResendCode, Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """`clock` is the one by which lifetimes are told in them."""

    clock: Clock
    otp: OtpStore
    guard: GuardStore
    jobs: Jobs

    async def open(self) -> None:
        """Connect, where there is something to connect to."""

    async def keep(self) -> None:
        """What has to go on all the time; runs until it is cancelled."""
        await self.jobs.work()

    async def close(self) -> None:
        """The last step. `jobs` were closed before what they work with, which may have planned something since."""
        await self.jobs.close()


def open_stores(settings: Settings, clock: Clock) -> Stores:
    """In Redis where REDIS_URL says so. Nothing is connected yet."""
    rules = StoreRules(
        max_attempts=settings.max_attempts,
        max_failures_per_number=settings.max_failures_per_number,
        replace_code_on_resend=settings.resend_code is ResendCode.NEW,
        retention_seconds=settings.status_retention_seconds,
        capacity=settings.store_capacity,
    )
    sealer = Sealer(settings.otp_secrets)
    if settings.redis_address:
        # Imported only here: clients and job library take 8 MB that only a Redis is worth.
        from redis_stores import open_redis_stores

        return open_redis_stores(settings, clock, rules, sealer)
    guard = MemoryGuardStore(clock, 2 * settings.store_capacity)  # a call counts for its number and prefix
    return Stores(clock, MemoryOtpStore(sealer, clock, rules), guard, MemoryJobs(clock))
