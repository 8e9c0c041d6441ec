"""`make samples`: what a callee hears, as WAV files of G.711 mu-law, one for each style and noise level."""

import sys
from pathlib import Path

import numpy as np

from bench.speech.line import mu_law_encode, mu_law_wav, over_the_line
from bench.speech.measure import NOISE_DB, SEED
from bench.speech.styles import STYLES
from bench.speech.voice import spoken

CODE = "610389"


def write_samples(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for style in STYLES:
        samples = spoken(style.write(CODE)).samples
        for noise_db in NOISE_DB:
            noise = "no-noise" if noise_db is None else f"{noise_db:g}dB"
            path = folder / f"{style.file_name}-{noise}.wav"
            arrived = over_the_line(samples, noise_db, np.random.default_rng(SEED))
            path.write_bytes(mu_law_wav(mu_law_encode(np.clip(arrived, -1, 1))))
            written.append(path)
    return written


if __name__ == "__main__":
    for path in write_samples(Path(sys.argv[1])):
        print(f"{path}  {path.stat().st_size // 1000} kB")
