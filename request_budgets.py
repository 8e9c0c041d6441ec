"""Budgets of requests that place no call: wrong codes over all numbers, and reads of a status.

One wrong code at each of many numbers is what the limits of a single number do not see. A guess is right by chance
once in a million, so the chance of a break-in is what is budgeted.
"""

import logging
from collections.abc import Sequence

from abuse_guard import LimitReached, quota_of
from guard_store import GuardStore
from limit_rules import Charge, Exceeded, Reservation, Window, rule

logger = logging.getLogger(__name__)

# Several clients may share an address: one that has used up its own budget must not stop the others.
ADDRESS_FACTOR = 10


class RequestBudgets:
    """Wrong codes per client and per address in an hour, and in all in a day; reads per verification in a minute.

    A limit of 0 is none.
    """

    def __init__(
        self, store: GuardStore, client_wrong_codes_per_hour: int, wrong_codes_per_day: int, reads_per_minute: int
    ) -> None:
        self._store = store
        per_hour = [client_wrong_codes_per_hour] if client_wrong_codes_per_hour else []
        self._client = [rule("client-wrong-codes", Window(limit, 3600)) for limit in per_hour]
        self._address = [rule("address-wrong-codes", Window(limit * ADDRESS_FACTOR, 3600)) for limit in per_hour]
        self._all = [rule("wrong-codes", Window(wrong_codes_per_day, 86_400))] if wrong_codes_per_day else []
        per_minute = [Window(reads_per_minute, 60)] if reads_per_minute else []
        self._reads = [rule("status-reads", window, has_many_subjects=True) for window in per_minute]

    async def reserve_wrong_code(self, client: str, address: str) -> Reservation:
        """Count a wrong code before any is compared; `refund` it when it was none. Raises: LimitReached."""
        charges = [
            *(Charge(rule, client) for rule in self._client),
            *(Charge(rule, address) for rule in self._address),
            *(Charge(rule, "all") for rule in self._all),
        ]
        answer = await self._store.reserve(charges)
        if isinstance(answer, Reservation):
            return answer
        refusal = _limit_reached(answer)
        logger.error("guessing stopped: too many wrong codes", extra={"client": client, "rules": refusal.rules})
        raise refusal

    async def refund(self, reservation: Reservation) -> None:
        await self._store.refund(reservation)

    async def count_read(self, verification_id: str) -> None:
        """Count one read of a verification's status. Raises: LimitReached."""
        answer = await self._store.reserve([Charge(rule, verification_id) for rule in self._reads])
        if not isinstance(answer, Reservation):
            raise _limit_reached(answer)


def _limit_reached(exceeded: Sequence[Exceeded]) -> LimitReached:
    worst = max(exceeded, key=lambda one: one.retry_after_seconds or 0)
    return LimitReached([one.charge.rule.name for one in exceeded], worst.retry_after_seconds, quota_of(worst))
