"""The listener gets used to a voice on a telephone: the acoustic model of PocketSphinx is adapted to it.

That model was trained on people and wide-band recordings; without this it takes many digits of a synthetic voice
on a telephone for others, whatever the style. Its Gaussians are moved towards rows of digits that the voice says
over a line with a little noise (maximum a posteriori adaptation). The rows are drawn apart from those of the
measure, and a third of them is spoken in each manner: digit by digit, joined by commas, joined by full stops.
"""

import random
import shutil
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np
from pocketsphinx import Decoder, get_model_path  # type: ignore[import-untyped]

from bench.speech.features import CEPSTRA, MODEL_RATE, cepstra, with_changes
from bench.speech.line import RATE, Samples, over_the_line
from bench.speech.styles import MANNER, WORDS
from bench.speech.voice import utterance

ROWS = 24
NOISE_DB = 20
_SEED = 7
_WEIGHT = 10  # of what the model knew already, in frames
_ROUNDS = 2
_NARROWEST = 0.01  # of a variance
_CODE_LENGTH = 6
_MAGIC = 0x11223344
_SILENCE = "SIL"
# The order of the model's codebooks: one for each phone, by name.
_PHONES = (
    "+NSN+", "+SPN+", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "SIL", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip

Alignment = list[tuple[str, slice]]
"""The phones of a row, in their order, with their frames."""


def adapt(folder: Path, rows: int = ROWS) -> None:
    """Leave a model in an empty folder, with the mean of the cepstra that it expects taken away in `mean.npy`."""
    practice = _practice_rows(rows)
    original = Path(get_model_path()) / "en-us" / "en-us"
    shutil.copytree(original, folder, dirs_exist_ok=True)
    # The mean of an utterance must not be taken away: it would depend on how long its pauses are.
    feat_params = folder / "feat.params"
    text = feat_params.read_text(encoding="ascii")
    feat_params.write_text(text.replace("-cmn batch", "-cmn none"), encoding="ascii")

    quiet = [cepstra(over_the_line(sound, None, np.random.default_rng(_SEED))) for _, sound in practice]
    loud = np.concatenate([one[one[:, 0] > np.median(one[:, 0])] for one in quiet])
    aligned = _aligned(folder, [words for words, _ in practice], quiet, loud.mean(axis=0))
    noise = np.random.default_rng(_SEED)
    heard = [cepstra(over_the_line(sound, NOISE_DB, noise)) for _, sound in practice]
    spoken = [
        one[frames]
        for one, phones in zip(heard, aligned, strict=True)
        for name, frames in phones
        if name != _SILENCE
    ]
    mean = np.concatenate(spoken).mean(axis=0)
    np.save(folder / "mean.npy", mean)
    _move(folder, _frames_of_phones([one - mean for one in heard], aligned))


def _practice_rows(count: int) -> list[tuple[str, Samples]]:
    """Words, and how they sound."""
    source = random.Random(_SEED)  # noqa: S311 - sample data, the same each time
    rows = []
    for number in range(count):
        code = source.choices("0123456789", k=_CODE_LENGTH)
        words = [WORDS[int(digit)] for digit in code]
        if number % 3 == 0:
            pieces = [piece for word in words for piece in (_said(word), np.zeros(RATE))]
        else:
            pieces = [_said(", ".join(code) if number % 3 == 1 else ". ".join(code) + ".")]
        silence = np.zeros(RATE // 2)
        rows.append((" ".join(words), np.concatenate([silence, *pieces, silence])))
    return rows


def _said(text: str) -> Samples:
    return utterance(text, MANNER.language)


def _aligned(model: Path, words: list[str], heard: list[Samples], mean: Samples) -> list[Alignment]:
    """Which frames are which phone; nothing for a row that the model cannot follow."""
    decoder = Decoder(hmm=str(model), samprate=MODEL_RATE, lm=None, loglevel="FATAL")
    return [_align(decoder, text, one - mean) for text, one in zip(words, heard, strict=True)]


def _align(decoder: Decoder, words: str, rows: Samples) -> Alignment:
    decoder.set_align_text(words)
    try:
        decode(decoder, rows)
        decoder.set_alignment()
        decode(decoder, rows)
    except RuntimeError:
        return []
    phones = (phone for word in decoder.get_alignment() for phone in word)
    return [(phone.name, slice(phone.start, phone.start + phone.duration)) for phone in phones]


def decode(decoder: Decoder, rows: Samples) -> None:
    """Raises: RuntimeError where no way through the grammar fits."""
    decoder.start_utt()
    decoder.process_cep(rows.astype("<f4").tobytes(), full_utt=True)
    decoder.end_utt()


def _frames_of_phones(heard: list[Samples], aligned: list[Alignment]) -> dict[tuple[int, int], Samples]:
    """All frames of a phone in one of the streams."""
    frames = defaultdict(list)
    for rows, phones in zip(heard, aligned, strict=True):
        for stream, values in enumerate(with_changes(rows)):
            for name, place in phones:
                frames[_PHONES.index(name), stream].append(values[place])
    return {key: np.concatenate(values) for key, values in frames.items()}


def _move(folder: Path, frames: dict[tuple[int, int], Samples]) -> None:
    old_means, old_variances = _read(folder / "means"), np.maximum(_read(folder / "variances"), 1e-4)
    means, variances = old_means.copy(), old_variances.copy()
    for at, seen in frames.items():
        for _ in range(_ROUNDS):
            means[at], variances[at] = _moved(means[at], variances[at], seen)
    _write(folder / "means", means)
    _write(folder / "variances", variances)


def _moved(means: Samples, variances: Samples, seen: Samples) -> tuple[Samples, Samples]:
    """The Gaussians of one codebook, each moved towards the frames that belong to it."""
    distances = (seen[:, None] - means) ** 2 / variances + np.log(variances)
    likelihoods = -distances.sum(axis=2) / 2
    shares = np.exp(likelihoods - likelihoods.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    weights = _WEIGHT + shares.sum(axis=0)[:, None]
    moved = (_WEIGHT * means + shares.T @ seen) / weights
    squares = (_WEIGHT * (variances + means**2) + shares.T @ seen**2) / weights
    return moved, np.maximum(squares - moved**2, _NARROWEST * variances)


def _read(path: Path) -> Samples:
    """Parameters by codebook, stream and Gaussian, from a file of CMU Sphinx's format."""
    content = path.read_bytes()
    start = content.index(b"endhdr\n") + len(b"endhdr\n")
    magic, codebooks, streams, gaussians, *lengths, count = struct.unpack_from("<I7i", content, start)
    assert (magic, codebooks, lengths) == (_MAGIC, len(_PHONES), [CEPSTRA] * streams)
    values = np.frombuffer(content, "<f4", count, start + 4 * (5 + streams))
    return values.reshape(codebooks, streams, gaussians, CEPSTRA).astype(np.float64)


def _write(path: Path, values: Samples) -> None:
    codebooks, streams, gaussians, length = values.shape
    head = struct.pack("<I7i", _MAGIC, codebooks, streams, gaussians, *[length] * streams, values.size)
    path.write_bytes(b"s3\nversion 1.0\nendhdr\n" + head + values.astype("<f4").tobytes())
