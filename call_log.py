"""The audit trail of a verification and its calls, and hanging up where trouble is only worth a line of it."""

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType

from phone_numbers import mask
from verification import Call, Verification, short_id
from voice_provider import ProviderError, VoiceProvider

logger = logging.getLogger(__name__)


async def hang_up_if_possible(provider: VoiceProvider, call_id: str, seconds: float | None = None) -> bool:
    """Whether the carrier ended a live call, in so many seconds; its trouble is logged."""
    try:
        async with asyncio.timeout(seconds):
            return await provider.hang_up(call_id)
    except (ProviderError, TimeoutError) as error:
        logger.warning("call could not be hung up: %s", str(error) or "no answer in time")
        return False


_NO_DETAILS: Mapping[str, object] = MappingProxyType({})


def log_call(
    level: int, text: str, record: Verification, call: Call, details: Mapping[str, object] = _NO_DETAILS
) -> None:
    """Log what became of a call: no code, no full number, no usable id."""
    known = {
        "call": call.number,
        "provider": call.provider,
        "end_reason": call.end_reason.value if call.end_reason else None,
        "hangup_cause": call.hangup_cause or None,
        **details,
    }
    log_verification(level, text, record, {key: value for key, value in known.items() if value is not None})


def log_verification(
    level: int, text: str, record: Verification, details: Mapping[str, object] = _NO_DETAILS
) -> None:
    """A line of a verification's audit trail; request lines with the same `verification` are the rest of it."""
    named = {
        "verification": short_id(record.id),
        "client": record.client,
        "phone": mask(record.phone),
        "status": record.status.value,
    }
    logger.log(level, text, extra={**named, **details})
