"""The measure of how clearly codes are understood, piece by piece, and the recordings that `make audio` makes."""

import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pocketsphinx")

from audio_files import seconds_of
from bench.speech.acquaintance import adapt
from bench.speech.line import (
    RATE,
    Samples,
    active_power,
    line_noise,
    mu_law_decode,
    mu_law_encode,
    mu_law_wav,
    over_the_line,
    resampled,
)
from bench.speech.listener import Listener
from bench.speech.measure import Result, drawn_codes
from bench.speech.picture import picture
from bench.speech.recordings import write_recordings
from bench.speech.styles import STYLES, WORDS, Style
from bench.speech.voice import spoken
from call_script import Speak
from server import create_app
from settings import load_settings
from speech import REQUIRED_RECORDINGS
from tests.conftest import NO_LIMITS

CODE = "610389"


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Listener:
    model = tmp_path_factory.mktemp("model")
    adapt(model, rows=9)  # enough for a line without noise
    return Listener(model)


@pytest.mark.parametrize(
    ("sample", "byte"),
    [
        pytest.param(0, 0xFF, id="zero"),
        pytest.param(1, 0x80, id="the loudest"),
        pytest.param(-1, 0x00, id="the loudest below zero"),
        pytest.param(31 / 8192, 0xEF, id="the end of the first segment"),
    ],
)
def test_mu_law_has_the_bytes_of_g711(sample: float, byte: int) -> None:
    assert mu_law_encode(np.array([sample], dtype=np.float64)).tolist() == [byte]


def test_every_byte_of_mu_law_is_itself_again() -> None:
    every = np.arange(256, dtype=np.uint8)
    again = mu_law_encode(mu_law_decode(every))
    negative_zero = 0x7F
    assert [int(one) for one in every if again[one] != one] == [negative_zero]


def test_mu_law_errs_by_a_few_percent_at_every_level() -> None:
    levels = np.geomspace(0.01, 0.9, 50)
    assert np.max(np.abs(mu_law_decode(mu_law_encode(levels)) - levels) / levels) < 0.04


def tone(hertz: float, rate: int) -> Samples:
    return np.sin(2 * np.pi * hertz * np.arange(rate) / rate) / 2


def test_resampling_keeps_a_tone_and_drops_what_the_line_cannot_carry() -> None:
    assert np.allclose(resampled(tone(1000, 22050), 22050), tone(1000, RATE), atol=1e-6)
    assert np.max(np.abs(resampled(tone(5000, 22050), 22050))) < 1e-6


def test_noise_is_as_loud_as_was_asked_for() -> None:
    noise = line_noise(RATE, 0.01, np.random.default_rng(1))
    assert np.mean(noise**2) == pytest.approx(0.01)


def test_pauses_do_not_count_as_speech() -> None:
    speech = tone(500, RATE)
    assert active_power(np.concatenate([speech, np.zeros(5 * RATE)])) == pytest.approx(active_power(speech))


@pytest.mark.parametrize("noise_db", [20, 10])
def test_the_line_adds_noise_in_the_ratio(noise_db: int) -> None:
    arrived, quiet = (over_the_line(tone(500, RATE), one, np.random.default_rng(1)) for one in (noise_db, None))
    ratio = active_power(quiet) / np.mean((arrived - quiet) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(noise_db)


def digits_said(style: Style) -> str:
    texts = [step.text for step in style.write(CODE) if isinstance(step, Speak)]
    return "".join(
        str(WORDS.index(text)) if text in WORDS else "".join(filter(str.isdigit, text)) for text in texts
    )


@pytest.mark.parametrize("style", [pytest.param(style, id=style.name) for style in STYLES])
def test_every_style_says_all_digits_in_order(style: Style) -> None:
    readings = len(spoken(style.write(CODE)).readings)
    assert digits_said(style) == CODE * readings
    assert readings == (1 if style.file_name == "comma-joined" else 2)


def test_ours_takes_no_longer_than_one_speak_per_digit() -> None:
    seconds = {style.file_name: spoken(style.write(CODE)).seconds for style in STYLES}
    assert seconds["ours"] <= seconds["one-speak-per-digit"] + 0.05, "but for the words of single digits"


@pytest.mark.parametrize("style", [pytest.param(style, id=style.name) for style in STYLES])
def test_a_clean_code_is_heard(style: Style, listener: Listener) -> None:
    call = spoken(style.write(CODE))
    arrived = over_the_line(call.samples, None, np.random.default_rng(1))
    assert listener.write_down(arrived, call.readings) == CODE


def test_codes_are_the_same_in_each_run() -> None:
    assert drawn_codes(3) == drawn_codes(200)[:3]


def test_the_picture_shows_every_result() -> None:
    results = [Result(style.name, noise_db, 8, 5, 40, 12.0) for style in STYLES for noise_db in (None, 20, 10)]
    assert picture(results).count("62.5 % · 12 s") == len(results)


def test_a_sample_is_a_file_that_carriers_could_play() -> None:
    assert seconds_of(mu_law_wav(mu_law_encode(tone(500, RATE))), ".wav") == 1


@pytest.mark.parametrize("language", ["de", "hi"])
def test_a_starter_set_is_complete(language: str, tmp_path: Path) -> None:
    assert write_recordings(language, tmp_path, "Example").new == len(REQUIRED_RECORDINGS)
    for path in tmp_path.rglob("*.wav"):
        with wave.open(str(path)) as file:
            form = file.getparams()
        assert (form.framerate, form.nchannels, form.sampwidth) == (RATE, 1, 2)
    create_app(load_settings(audio_dir=str(tmp_path), **NO_LIMITS))


def test_recordings_of_people_are_kept(tmp_path: Path) -> None:
    person = tmp_path / "de" / "7.wav"
    person.parent.mkdir()
    person.write_bytes(b"a person's voice")
    assert write_recordings("de", tmp_path, "Example").kept == 1
    assert person.read_bytes() == b"a person's voice"
    assert write_recordings("de", tmp_path, "Example", replace=True).kept == 0
    assert person.read_bytes() != b"a person's voice"


@pytest.mark.parametrize("language", ["fil", "xx"])
def test_a_language_that_cannot_be_spoken_leaves_no_files(language: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=language):
        write_recordings(language, tmp_path, "Example")
    assert not list(tmp_path.iterdir())
