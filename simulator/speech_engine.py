"""Text to samples with eSpeak NG: the library of the package `espeakng-loader`, else the system's.

The library keeps its state in globals and is not thread-safe. So this file is run as a program, once per text:
`python -m simulator.speech_engine LANGUAGE WORDS_PER_MINUTE < text > audio.wav`
"""

import ctypes
import io
import sys
import wave
from array import array
from ctypes.util import find_library
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

NORMAL_WORDS_PER_MINUTE = 150
# The engine's constants, from espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_RATE = 1
_UTF8 = 1
_SAMPLES_AT_ONCE_MS = 200
# Languages that the engine knows under another name.
_VOICES = {"zh": "cmn", "zh-hk": "yue", "zh-yue": "yue", "en": "en-us", "en-in": "en-gb", "pt": "pt-br"}

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Sound(NamedTuple):
    """Samples of 16 bit, mono."""

    samples: "array[int]"
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def is_available() -> bool:
    return find_spec("espeakng_loader") is not None or find_library("espeak-ng") is not None


def speak(text: str, language: str, words_per_minute: int = NORMAL_WORDS_PER_MINUTE) -> Sound:
    """The text spoken in a language (BCP 47 tag). Raises: ValueError when the engine cannot."""
    engine, rate = _started_engine()
    if not any(engine.espeak_SetVoiceByName(name.encode()) == 0 for name in _voice_names(language)):
        raise ValueError(f"espeak-ng has no voice for {language}")
    engine.espeak_SetParameter(_RATE, words_per_minute, 0)
    samples = array("h")

    @_Callback  # type: ignore[untyped-decorator]
    def take(block: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if block:
            samples.frombytes(ctypes.string_at(block, 2 * count))
        return 0

    engine.espeak_SetSynthCallback(take)
    spoken = text.encode() + b"\0"
    if engine.espeak_Synth(spoken, len(spoken), 0, 0, 0, _UTF8, None, None) != 0 or not samples:
        raise ValueError("espeak-ng cannot speak this")
    return Sound(samples, rate)


def _voice_names(language: str) -> tuple[str, ...]:
    tag = language.lower()
    bare = tag.split("-")[0]
    return _VOICES.get(tag, tag), _VOICES.get(bare, bare)


@cache
def _started_engine() -> tuple[ctypes.CDLL, int]:
    """The library and its sample rate. Raises: ValueError when it is not installed or cannot start."""
    try:
        import espeakng_loader  # type: ignore[import-untyped]
    except ImportError:
        path, data = find_library("espeak-ng"), None
    else:
        path, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path().encode()
    if path is None:
        raise ValueError("espeak-ng is not installed: pip install espeakng-loader")
    engine = ctypes.CDLL(path)
    engine.espeak_Synth.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int),
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
    )
    rate = engine.espeak_Initialize(_SYNCHRONOUS, _SAMPLES_AT_ONCE_MS, data, _DO_NOT_EXIT)
    if rate <= 0:
        raise ValueError("espeak-ng does not find its data")
    return engine, rate


def wav_bytes(sound: Sound) -> bytes:
    """A WAV file: mono, 16 bit PCM."""
    samples = sound.samples
    if sys.byteorder == "big":
        samples = samples[:]
        samples.byteswap()
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sound.rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def main(language: str, words_per_minute: str) -> None:
    try:
        sound = speak(sys.stdin.buffer.read().decode(), language, int(words_per_minute))
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(wav_bytes(sound))


if __name__ == "__main__":
    main(*sys.argv[1:])
