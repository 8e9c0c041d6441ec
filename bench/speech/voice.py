"""A call script as sound: what leaves the carrier's text-to-speech engine, and where in it the code is read."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bench.speech.line import RATE, Samples, resampled
from bench.speech.styles import is_digit
from call_script import NORMAL_RATE, CallScript, Pause, Speak
from simulator.speech_engine import NORMAL_WORDS_PER_MINUTE, speak

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
            piece = utterance(step.text, step.language, step.rate)
            if is_digit(step):
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
def utterance(text: str, language: str, rate_percent: int = NORMAL_RATE) -> Samples:
    words_per_minute = round(NORMAL_WORDS_PER_MINUTE * rate_percent / NORMAL_RATE)
    sound = speak(text, language, words_per_minute)
    return resampled(np.array(sound.samples, dtype=np.float64) / 32768, sound.rate)
