"""The listener: an open recogniser that knows that it will hear six digits, and nothing else about the call.

It is PocketSphinx with the acoustic model of its package, adapted to the voice once (`acquaintance.py`), the same
for every style and noise level. It does not search for digits in long silences.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder  # type: ignore[import-untyped]

from bench.speech.acquaintance import decode
from bench.speech.features import FRAME_SECONDS, MODEL_RATE, cepstra
from bench.speech.line import Samples, frame_powers
from bench.speech.styles import WORDS

CODE_LENGTH = 6
_SILENCE_KEPT_SECONDS = 0.2  # on each side of what may be speech
_SPEECH_ABOVE_NOISE = 10 ** (3 / 10)
# Narrower beams than usual: half the time, the same digits. Silence is as likely as speech.
_SEARCH = {"beam": 1e-30, "pbeam": 1e-30, "wbeam": 1e-20, "silprob": 0.5}


class Heard(NamedTuple):
    """What was made of one reading: a digit for each place, and from 0 to 1 how sure it is."""

    digits: str
    confidences: tuple[float, ...]


class Listener:
    """Listens to calls with an adapted model."""

    def __init__(self, model: Path) -> None:
        self._mean = np.load(model / "mean.npy")
        self._decoder = Decoder(hmm=str(model), samprate=MODEL_RATE, lm=None, loglevel="FATAL", **_SEARCH)
        grammar = f"public <code> = {'<digit> ' * CODE_LENGTH}; <digit> = {' | '.join(WORDS)};"
        self._decoder.add_jsgf_string("code", f"#JSGF V1.0; grammar code; {grammar}")
        self._decoder.activate_search("code")

    def write_down(self, samples: Samples, readings: tuple[slice, ...]) -> str:
        """The code: at each place the digit of the reading in which the recogniser is surest of it."""
        heard = [self._hear(samples[reading]) for reading in readings]
        whole = [each for each in heard if len(each.digits) == CODE_LENGTH]
        places = zip(*(zip(each.confidences, each.digits, strict=True) for each in whole), strict=True)
        return "".join(max(place, key=lambda choice: choice[0])[1] for place in places)

    def _hear(self, samples: Samples) -> Heard:
        """One reading. Fewer digits than a code has, if no whole row of them can be made of it."""
        rows = cepstra(samples) - self._mean
        decode(self._decoder, rows[_may_be_speech(samples, len(rows))])
        words = [(segment.word.split("(")[0], segment.prob) for segment in self._decoder.seg() or ()]
        digits = [(str(WORDS.index(word)), sureness) for word, sureness in words if word in WORDS]
        return Heard("".join(digit for digit, _ in digits), tuple(sureness for _, sureness in digits))


def _may_be_speech(samples: Samples, count: int) -> NDArray[np.bool_]:
    """Of so many frames, those that are louder than the noise, and some around them."""
    powers = frame_powers(samples, FRAME_SECONDS)
    is_loud = powers > np.percentile(powers, 10) * _SPEECH_ABOVE_NOISE
    width = 2 * round(_SILENCE_KEPT_SECONDS / FRAME_SECONDS) + 1
    near: NDArray[np.bool_] = np.convolve(is_loud, np.ones(width), mode="same")[:count] > 0
    return near
