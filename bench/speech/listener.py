"""The listener: an open recogniser that knows that it will hear six digits, and nothing else about the call.

It is PocketSphinx with the acoustic model that its package carries, which was trained on wide-band recordings. What it takes
to hear a telephone with it is the same for every style:

- The model's feature file asks for the mean of the whole utterance to be taken away, so that pauses would change how digits
  sound. Here the mean is learnt once per noise level, from the ten digits spoken in a row without pauses.
- A floor of faint noise over the whole band: the model knows no digital silence, and nothing that ends at 3.4 kHz.
- On a telephone an S is heard as a TH: what tells them apart lies above its band. The dictionary says so.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pocketsphinx import Decoder, get_model_path

from bench.speech.line import RATE, SPEECH_LEVEL, Samples, over_the_line
from bench.speech.voice import utterance

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CODE_LENGTH = 6
AS_HEARD_ON_A_TELEPHONE = {
    "zero": ("DH IH R OW", "DH IY R OW"),
    "six": ("TH IH K TH", "TH IH K S"),
    "seven": ("TH EH V AH N",),
}
_MODEL_RATE = 2 * RATE
_FLOOR = SPEECH_LEVEL * 10 ** (-55 / 20)
_SEARCH = {"lm": None, "beam": 1e-20, "pbeam": 1e-20, "wbeam": 1e-14, "loglevel": "FATAL"}


class Heard(NamedTuple):
    """What was made of one reading: a digit for each place, and how sure of each the recogniser is, from 0 to 1."""

    digits: str
    confidences: tuple[float, ...]


class Listener:
    """Listens to calls on lines with so much noise; `None` for none."""

    def __init__(self, noise_db: float | None) -> None:
        self._random = np.random.default_rng(0)
        self._decoder = _decoder("live")
        self._mean = self._mean_of_digits(noise_db)

    def write_down(self, samples: Samples, readings: tuple[slice, ...]) -> str:
        """The code: at each place the digit of the reading in which the recogniser is surest of it."""
        heard = [self._hear(samples[reading]) for reading in readings]
        places = zip(*(zip(each.confidences, each.digits, strict=True) for each in heard if each.digits), strict=True)
        return "".join(max(place, key=lambda choice: choice[0])[1] for place in places)

    def _hear(self, samples: Samples) -> Heard:
        """One reading. Nothing, if not one row of six digits can be made of it."""
        self._decoder.set_cmn(self._mean)
        _decode(self._decoder, self._to_model(samples))
        words = [(segment.word.split("(")[0], segment.prob) for segment in self._decoder.seg() or ()]
        digits = [(str(WORDS.index(word)), sureness) for word, sureness in words if word in WORDS]
        return Heard("".join(digit for digit, _ in digits), tuple(sureness for _, sureness in digits))

    def _to_model(self, samples: Samples) -> bytes:
        """At the model's rate, with the floor of noise."""
        count = len(samples)
        spectrum = np.zeros(count + 1, dtype=np.complex128)
        spectrum[: count // 2 + 1] = np.fft.rfft(samples)
        wide = 2 * np.fft.irfft(spectrum, 2 * count) + _FLOOR * self._random.standard_normal(2 * count)
        return np.clip(np.round(wide * 32768), -32768, 32767).astype("<i2").tobytes()

    def _mean_of_digits(self, noise_db: float | None) -> str:
        row = np.concatenate([utterance(str(digit), "en-US") for digit in range(10)] * 2)
        decoder = _decoder("batch")
        _decode(decoder, self._to_model(over_the_line(row, noise_db, self._random)))
        return str(decoder.get_cmn(False))


def _decode(decoder: Decoder, sound: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()


def _decoder(mean: str) -> Decoder:
    """A decoder for six digits; `mean` says over what the cepstral mean is taken, in PocketSphinx's words."""
    decoder = Decoder(hmm=str(_model(mean)), samprate=_MODEL_RATE, **_SEARCH)
    for word, pronunciations in AS_HEARD_ON_A_TELEPHONE.items():
        for number, phones in enumerate(pronunciations, 4):
            decoder.add_word(f"{word}({number})", phones, True)
    grammar = f"public <code> = {'<digit> ' * CODE_LENGTH}; <digit> = {' | '.join(WORDS)};"
    decoder.add_jsgf_string("code", f"#JSGF V1.0; grammar code; {grammar}")
    decoder.activate_search("code")
    return decoder


@cache
def _model(mean: str) -> Path:
    """The package's model with another line in its feature file, which no setting of the decoder can overrule."""
    model = Path(get_model_path()) / "en-us" / "en-us"
    folder = Path(tempfile.mkdtemp(prefix="voice-otp-listener-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in model.iterdir():
        if file.name == "feat.params":
            text = file.read_text(encoding="ascii").replace("-cmn batch", f"-cmn {mean}")
            (folder / file.name).write_text(text, encoding="ascii")
        else:
            shutil.copy(file, folder)
    return folder
