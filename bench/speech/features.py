"""What the recogniser works on: mel-frequency cepstra, a hundred frames a second, as its model knows them.

They are computed here, and not by PocketSphinx, so that what is heard is what its model was adapted with.
"""

import numpy as np

from bench.speech.line import RATE, SPEECH_LEVEL, Samples

CEPSTRA = 13
MODEL_RATE = 2 * RATE
FRAME_SECONDS = 0.01
_HOP = round(MODEL_RATE * FRAME_SECONDS)
_WINDOW, _FFT = 410, 512
_FILTERS, _LOWEST_HZ, _HIGHEST_HZ = 25, 130, 6800  # these and the lifter: from the model's feat.params
_LIFTER = 22
_PREEMPHASIS = 0.97
_FULL_SCALE = 32768
# The model knows no digital silence, and nothing that ends at 3.4 kHz.
_FLOOR = SPEECH_LEVEL * 10 ** (-55 / 20)


def cepstra(samples: Samples) -> Samples:
    """One row for each frame of what arrived over a line."""
    count = len(samples)
    spectrum = np.zeros(count + 1, dtype=np.complex128)
    spectrum[: count // 2 + 1] = np.fft.rfft(samples)
    floor = _FLOOR * np.random.default_rng(count).standard_normal(2 * count)
    wide = (2 * np.fft.irfft(spectrum, 2 * count) + floor) * _FULL_SCALE
    wide[1:] -= _PREEMPHASIS * wide[:-1].copy()
    starts = np.arange(0, len(wide) - _WINDOW, _HOP)
    frames = wide[starts[:, None] + np.arange(_WINDOW)] * np.hamming(_WINDOW)
    powers = np.abs(np.fft.rfft(frames, _FFT, axis=1)) ** 2
    mel = np.log(np.maximum(powers @ _mel_filters().T, 1e-4))
    return (mel @ _cosines().T) * (1 + _LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / _LIFTER))


def with_changes(rows: Samples) -> list[Samples]:
    """The cepstra, how they change, and how that changes: the model's three streams."""
    count = len(rows)
    padded = np.pad(rows, ((3, 3), (0, 0)), mode="edge")

    def change(at: int) -> Samples:
        return padded[3 + at + 2 : 3 + at + 2 + count] - padded[3 + at - 2 : 3 + at - 2 + count]

    return [rows, change(0), change(1) - change(-1)]


def _mel_filters() -> Samples:
    """Triangles of the same area, their corners evenly apart on the mel scale."""
    ends = 2595 * np.log10(1 + np.array([_LOWEST_HZ, _HIGHEST_HZ]) / 700)
    corners = 700 * (10 ** (np.linspace(ends[0], ends[1], _FILTERS + 2) / 2595) - 1)
    bin_hz = MODEL_RATE / _FFT
    left, middle, right = ((np.round(corners / bin_hz) * bin_hz)[at : at + _FILTERS, None] for at in range(3))
    hertz = np.arange(_FFT // 2 + 1) * bin_hz
    rise, fall = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    filters: Samples = np.maximum(0, np.minimum(rise, fall)) * 2 / (right - left)
    return filters


def _cosines() -> Samples:
    """The orthonormal cosine transform of the second kind."""
    order = np.arange(CEPSTRA)[:, None]
    matrix: Samples = np.cos(np.pi * order * (np.arange(_FILTERS) + 0.5) / _FILTERS) * np.sqrt(2 / _FILTERS)
    matrix[0] *= np.sqrt(0.5)
    return matrix
