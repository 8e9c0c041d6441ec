"""A telephone line: 8 kHz, the telephone band, G.711 mu-law, and noise at a given ratio to the speech."""

import struct

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]  # full scale is 1.0

RATE = 8000
LOWEST_HZ, HIGHEST_HZ = 300, 3400
SPEECH_LEVEL = 10 ** (-20 / 20)  # of the speech-active samples, below full scale
_MU = 255
_FRAME_SECONDS = 0.02  # the grain at which speech is told from silence
_QUIETEST_SPEECH = 10 ** (-35 / 20)  # below the loudest frame; quieter frames are silence
_HUM_HZ = 50
_HUM_HARMONICS = range(7, 16, 2)  # of mains hum, those that the band lets through
_SWELL_SECONDS, _SWELL_DB = 0.5, 6  # how fast the hiss changes, and its standard deviation
_HUM_SHARE = 0.1  # of the noise's power


def resampled(samples: Samples, rate: int) -> Samples:
    """A sound of another rate at the line's, without what that rate cannot carry."""
    count = round(len(samples) * RATE / rate)
    spectrum = np.fft.rfft(samples)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * (count / len(samples))


def telephone_band(samples: Samples) -> Samples:
    """Without what a telephone line does not carry. The whole sound at once, so no filter delays it."""
    spectrum = np.fft.rfft(samples)
    spectrum *= _band_response(np.fft.rfftfreq(len(samples), 1 / RATE))
    return np.fft.irfft(spectrum, len(samples))


def _band_response(hertz: NDArray[np.floating]) -> Samples:
    """Flat in the band, with slopes of about 100 Hz on both sides."""
    rise = np.clip((hertz - LOWEST_HZ + 100) / 100, 0, 1)
    fall = np.clip((HIGHEST_HZ + 100 - hertz) / 100, 0, 1)
    response: Samples = np.sin(rise * np.pi / 2) ** 2 * np.sin(fall * np.pi / 2) ** 2
    return response


def mu_law_encode(samples: Samples) -> NDArray[np.uint8]:
    """Bytes of G.711 mu-law, from its segments of a 14 bit scale."""
    level = np.minimum(np.round(np.abs(samples) * 8192), 8158).astype(np.int64) + 33
    segment = np.floor(np.log2(level)).astype(np.int64) - 5
    step = (level >> (segment + 1)) & 0xF
    sign = np.where(samples < 0, 0x80, 0)
    encoded: NDArray[np.uint8] = (~(sign | segment << 4 | step) & 0xFF).astype(np.uint8)
    return encoded


def mu_law_decode(encoded: NDArray[np.uint8]) -> Samples:
    bits = ~encoded.astype(np.int64) & 0xFF
    segment, step = bits >> 4 & 7, bits & 0xF
    level = ((2 * step + 33) << segment) - 33
    return np.where(bits & 0x80, -level, level) / 8192


def frame_powers(samples: Samples, seconds: float) -> Samples:
    """Mean power of each piece that is so long."""
    length = round(RATE * seconds)
    powers: Samples = np.mean(samples[: len(samples) // length * length].reshape(-1, length) ** 2, axis=1)
    return powers


def active_power(samples: Samples) -> float:
    """Mean power of the samples that are speech: without the pauses, which would flatter a slow style."""
    powers = frame_powers(samples, _FRAME_SECONDS)
    return float(np.mean(powers[powers > np.max(powers) * _QUIETEST_SPEECH**2]))


def line_noise(count: int, power: float, random: np.random.Generator) -> Samples:
    """Noise of a telephone's band that comes and goes, with some mains hum in it, of so much power in the mean."""
    # Streams of their own, so that two calls of one seed have the same noise for as long as both last.
    of_hiss, of_swell, of_hum = random.spawn(3)
    hiss = telephone_band(of_hiss.standard_normal(count)) * _swell(count, of_swell)
    seconds = np.arange(count) / RATE
    phases = of_hum.uniform(0, 2 * np.pi, len(_HUM_HARMONICS))
    hum = np.zeros(count)
    for harmonic, phase in zip(_HUM_HARMONICS, phases, strict=True):
        hum += np.sin(2 * np.pi * _HUM_HZ * harmonic * seconds + phase)
    noise = hiss * np.sqrt((1 - _HUM_SHARE) / np.mean(hiss**2)) + hum * np.sqrt(_HUM_SHARE / np.mean(hum**2))
    scaled: Samples = noise * np.sqrt(power / np.mean(noise**2))
    return scaled


def _swell(count: int, random: np.random.Generator) -> Samples:
    """How loud the hiss is at each sample: lines crackle and fade, and nobody's kitchen is evenly noisy."""
    places = np.arange(0, count + RATE * _SWELL_SECONDS, RATE * _SWELL_SECONDS)
    decibels = np.interp(np.arange(count), places, _SWELL_DB * random.standard_normal(len(places)))
    swell: Samples = 10 ** (decibels / 20)
    return swell


def over_the_line(speech: Samples, noise_db: float | None, random: np.random.Generator) -> Samples:
    """What arrives: band, mu-law and back, and noise so many decibels below the speech, or none."""
    heard = telephone_band(speech)
    heard *= SPEECH_LEVEL / np.sqrt(active_power(heard))
    heard = mu_law_decode(mu_law_encode(heard))
    if noise_db is None:
        return heard
    return heard + line_noise(len(heard), active_power(heard) / 10 ** (noise_db / 10), random)


def samples_wav(samples: Samples) -> bytes:
    """A WAV file of 16 bit PCM."""
    data = np.round(samples * 32767).astype("<i2").tobytes()
    return _wav(1, 16, b"", data)


def mu_law_wav(encoded: NDArray[np.uint8]) -> bytes:
    """A WAV file of G.711 mu-law."""
    count = struct.pack("<4sII", b"fact", 4, len(encoded))
    return _wav(7, 8, count, encoded.tobytes())


def _wav(tag: int, bits: int, chunks: bytes, data: bytes) -> bytes:
    size = bits // 8
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, 1, RATE, RATE * size, size, bits)
    padded = data + bytes(len(data) % 2)
    body = b"WAVE" + form + chunks + struct.pack("<4sI", b"data", len(data)) + padded
    return struct.pack("<4sI", b"RIFF", len(body)) + body
