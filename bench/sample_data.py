"""Numbers and codes, the same ones in every run with the same seed."""

import random

SEED = 20260301


def phone_number(index: int) -> str:
    """A valid number, another one for each index below 10^8."""
    return f"+9198{index:08d}"


def draw_codes(first: int, count: int) -> dict[str, str]:
    """Codes of six digits by number, for the numbers from this index on."""
    rng = seeded(first)
    return {phone_number(index): f"{rng.randrange(10**6):06d}" for index in range(first, first + count)}


def seeded(purpose: int) -> random.Random:
    return random.Random(SEED + purpose)  # noqa: S311 - test data
