"""`make audio`: a starter set of recordings for AUDIO_DIR, spoken by eSpeak NG in the words of `spoken_texts/`."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.speech.line import RATE, Samples, active_power, samples_wav
from bench.speech.voice import utterance
from languages import SpokenTexts, load_spoken_texts
from prompt_sets import fill
from script_writer import RECORDED_IN_PARTS
from speech import REQUIRED_RECORDINGS, SPOKEN_TEXTS

_LEVEL = 10 ** (-20 / 20)  # of speech, below full scale
_LOUDEST = 0.98
_SILENCE = 10 ** (-45 / 20)  # below the loudest sample
_KEPT_SECONDS = 0.03  # around the speech
_NOTHING_SECONDS = 0.1


class Written(NamedTuple):
    new: int
    kept: int


def write_recordings(language: str, folder: Path, app_name: str, *, replace: bool = False) -> Written:
    """Each file that a language needs, below its own folder; those that are there already are kept.

    Raises: ValueError when there are no texts for the language, or no voice; nothing is written then.
    """
    texts = load_spoken_texts(SPOKEN_TEXTS).get(language)
    if texts is None:
        raise ValueError(f"there is no spoken_texts/{language}.toml")
    said = _texts_of_files(texts, app_name)
    paths = {folder / language / f"{name}.wav": said[name] for name in REQUIRED_RECORDINGS}
    sounds = {path: _recording(text, language) for path, text in paths.items() if replace or not path.exists()}
    (folder / language).mkdir(parents=True, exist_ok=True)
    for path, sound in sounds.items():
        path.write_bytes(samples_wav(sound))
    return Written(len(sounds), len(paths) - len(sounds))


def _texts_of_files(texts: SpokenTexts, app_name: str) -> dict[str, str]:
    said = {character.lower(): word for character, word in (*texts.digits.items(), *texts.letters.items())}
    for name in REQUIRED_RECORDINGS:
        if name not in said and hasattr(texts, name):
            said[name] = fill(getattr(texts, name), {"app": app_name})
    for name, parts in RECORDED_IN_PARTS.items():
        said.update(zip(parts, getattr(texts, name).split("{key}"), strict=True))
    return said


def _recording(text: str, language: str) -> Samples:
    """Without silence at its ends, and as loud as every other."""
    if not any(map(str.isalpha, text)):  # the end of a sentence that ends with a key
        return np.zeros(round(_NOTHING_SECONDS * RATE))
    sound = utterance(text.strip(), language)
    loud = np.flatnonzero(np.abs(sound) > _SILENCE * np.max(np.abs(sound)))
    kept = round(_KEPT_SECONDS * RATE)
    sound = sound[max(0, loud[0] - kept) : loud[-1] + kept]
    sound = sound * (_LEVEL / np.sqrt(active_power(sound)))
    level: Samples = sound * min(1, _LOUDEST / np.max(np.abs(sound)))
    return level


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speech.recordings", description=__doc__)
    parser.add_argument("language", help="a file of spoken_texts, such as de")
    parser.add_argument("folder", type=Path, help="what AUDIO_DIR will name")
    parser.add_argument("--app", default="your app", help="the app's name, said in the greetings")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args()
    if not options.language:
        sys.exit("make audio: say which language, for example: make audio LANG=de")
    try:
        written = write_recordings(options.language, options.folder, options.app, replace=options.force)
    except ValueError as error:
        sys.exit(f"make audio: {error}")
    kept = f", {written.kept} were there and are kept (FORCE=1 replaces them)" if written.kept else ""
    print(f"{options.folder / options.language}: {written.new} recordings written{kept}")


if __name__ == "__main__":
    main()
