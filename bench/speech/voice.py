"""A call script as sound: what leaves the carrier's text-to-speech engine, and where in it the code is read."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bench.speech.line import RATE, Samples
from bench.speech.styles import holds_digits
from call_script import CallScript, Pause, Speak
from simulator.speech_engine import NORMAL_WORDS_PER_MINUTE, resampled, speak

AFTERWARDS_SECONDS = 0.5  # the line stays open after the last digit


class SpokenCall(NamedTuple):
    """`seconds` is until the end of the last digit; `readings` are from the end of a prompt to the next one."""

    samples: Samples
    seconds: float
    readings: tuple[slice, ...]


def spoken(script: CallScript) -> SpokenCall:
    pieces: list[Samples] = []
    readings: list[slice] = []
    length = prompt_end = last_digit = 0
    is_reading = False
    for step in script:
        if isinstance(step, Pause):
            piece = np.zeros(round(step.seconds * RATE))
        elif isinstance(step, Speak):
            piece = utterance(step.text, step.language, getattr(step, "rate", 100))
            if holds_digits(step):
                is_reading, last_digit = True, length + len(piece)
            else:
                if is_reading:
                    readings.append(slice(prompt_end, length))
                is_reading, prompt_end = False, length + len(piece)
        else:
            continue
        pieces.append(piece)
        length += len(piece)
    pieces.append(np.zeros(round(AFTERWARDS_SECONDS * RATE)))
    samples = np.concatenate(pieces)
    if is_reading:
        readings.append(slice(prompt_end, len(samples)))
    return SpokenCall(samples, last_digit / RATE, tuple(readings))


@lru_cache(maxsize=4096)
def utterance(text: str, language: str, rate_percent: int = 100) -> Samples:
    words_per_minute = round(NORMAL_WORDS_PER_MINUTE * rate_percent / 100)
    sound = resampled(speak(text, language, words_per_minute), RATE)
    return np.array(sound.samples, dtype=np.float64) / 32768
