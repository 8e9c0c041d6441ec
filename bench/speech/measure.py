"""The measure: the same codes in every style, over lines with more and less noise, and what is written down."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.speech.acquaintance import adapt
from bench.speech.line import over_the_line
from bench.speech.listener import CODE_LENGTH, Listener
from bench.speech.styles import STYLES, Style
from bench.speech.voice import spoken

SEED = 20261121
NOISE_DB: tuple[float | None, ...] = (None, 20, 10)
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Result:
    """Of one style at one noise level."""

    style: str
    noise_db: float | None
    codes: int
    codes_right: int
    digits_right: int
    seconds: float

    @property
    def codes_percent(self) -> float:
        return 100 * self.codes_right / self.codes

    @property
    def digits_percent(self) -> float:
        return 100 * self.digits_right / self.codes / CODE_LENGTH


def drawn_codes(count: int) -> list[str]:
    """The same ones at each run."""
    source = random.Random(SEED)  # noqa: S311 - sample data, the same each time
    return ["".join(source.choices("0123456789", k=CODE_LENGTH)) for _ in range(count)]


def measure_all(count: int) -> Iterator[Result]:
    """Every style at every noise level, in that order; the results come as they are ready."""
    codes = drawn_codes(count)
    jobs = [(style, noise_db) for style in range(len(STYLES)) for noise_db in NOISE_DB]
    with (
        TemporaryDirectory(prefix="voice-otp-") as folder,
        ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool,
    ):
        model = Path(folder)
        adapt(model)
        yield from (done.result() for done in [pool.submit(_measure, model, *job, codes) for job in jobs])


def _measure(model: Path, style: int, noise_db: float | None, codes: Sequence[str]) -> Result:
    return measure_style(STYLES[style], noise_db, codes, Listener(model))


def measure_style(style: Style, noise_db: float | None, codes: Sequence[str], listener: Listener) -> Result:
    codes_right = digits_right = 0
    seconds = 0.0
    for number, code in enumerate(codes):
        call = spoken(style.write(code))
        noise = np.random.default_rng((SEED, number))
        written = listener.write_down(over_the_line(call.samples, noise_db, noise), call.readings)
        codes_right += written == code
        digits_right += sum(one == other for one, other in zip(written, code, strict=False))
        seconds += call.seconds
    return Result(style.name, noise_db, len(codes), codes_right, digits_right, seconds / len(codes))
