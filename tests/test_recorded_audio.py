"""Recordings: what stops the start, addresses that tell nothing, and how they are served."""

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import struct
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

import recorded_audio
from audio_files import NotPlayable, seconds_of
from clock import Clock
from log_format import ConsoleFormatter, JsonFormatter
from recorded_audio import BadRecordings, Recording, Recordings, UnknownRecording, load_recordings
from server import create_app
from settings import BadSettings, load_settings
from speech import REQUIRED_RECORDINGS
from tests.conftest import OTP_SECRET, FakeTime, RunningService, keep_secret, leaks_in, run_service
from tests.test_server import program, wait_for_line

ROOT = Path(__file__).parent.parent
TONE = ROOT / "tests" / "payloads" / "audio" / "tone.mp3"
OLD_SECRET, NEW_SECRET = keep_secret("old-" + OTP_SECRET), keep_secret("new-" + OTP_SECRET)
URL = "https://otp.example.com"
NAMES = ("0", "1", "7", "a", "greeting")


def noise(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def write_wav(path: Path, seconds: float = 0.25, *, rate: int = 8000, channels: int = 1, width: int = 2) -> None:
    """Noise, so that no two files are alike, but the same for the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(noise(str(path)).randbytes(int(seconds * rate) * channels * width))


def write_language(folder: Path, language: str, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        write_wav(folder / language / f"{name}.wav")


def g711(tag: int, samples: int, *, channels: int = 1) -> bytes:
    layout = struct.pack("<HHIIHH", tag, channels, 8000, 8000, 1, 8)
    return riff((b"fmt ", layout), (b"fact", struct.pack("<I", samples)), (b"data", b"\xd5" * samples))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def problems_of(folder: Path, required: tuple[str, ...] = NAMES) -> list[str]:
    with pytest.raises(BadRecordings) as bad:
        load_recordings(folder, required)
    return bad.value.problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two complete languages, and files of one prompt set."""
    folder = tmp_path / "audio"
    write_language(folder, "hi", REQUIRED_RECORDINGS)
    write_language(folder, "en-GB", REQUIRED_RECORDINGS)
    write_wav(folder / "shop-prompts" / "greeting.wav", 1.5)
    shutil.copy(TONE, folder / "shop-prompts" / "jingle.mp3")
    return folder


# What is accepted


def test_durations_are_read_from_the_headers(tmp_path: Path) -> None:
    write_wav(tmp_path / "x.wav", 1.25)
    assert seconds_of((tmp_path / "x.wav").read_bytes(), ".wav") == 1.25
    assert seconds_of(g711(6, 4000), ".wav") == 0.5
    assert seconds_of(g711(7, 4001), ".wav") == 4001 / 8000
    assert seconds_of(TONE.read_bytes(), ".mp3") == pytest.approx(0.648)  # LAME adds silence at both ends


def test_what_stands_around_the_sound_is_not_counted() -> None:
    layout = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    chunks = (b"LIST", b"odd"), (b"fmt ", layout), (b"data", b"\1\0" * 8000), (b"LIST", b"INFO")
    assert seconds_of(riff(*chunks), ".wav") == 1
    before = b"ID3\4\0\0" + bytes([0, 0, 1, 2]) + b"\xff\xfb" * 65
    for tagged in (
        before + TONE.read_bytes(),
        TONE.read_bytes() + b"TAG" + b"x" * 125,
        TONE.read_bytes() + b"\0\0",
    ):
        assert seconds_of(tagged, ".mp3") == pytest.approx(0.648)


MPEG_1 = b"\xff\xfb\x90\x00"  # 128 kbit/s at 44,100 Hz: 417 bytes, 1152 samples
MPEG_2 = b"\xff\xf3\x42\x00"  # 32 kbit/s at 22,050 Hz, padded: 105 bytes, 576 samples


@pytest.mark.parametrize(
    ("frame", "length", "seconds"),
    [
        pytest.param(MPEG_1, 417, 1152 / 44_100, id="MPEG 1"),
        pytest.param(MPEG_2, 105, 576 / 22_050, id="MPEG 2, padded"),
    ],
)
def test_an_mp3_lasts_as_long_as_its_frames(frame: bytes, length: int, seconds: float) -> None:
    frames = frame.ljust(length, b"\0") * 40
    assert seconds_of(frames, ".mp3") == pytest.approx(40 * seconds)


@pytest.mark.parametrize(
    ("data", "suffix", "words"),
    [
        pytest.param(b"", ".wav", "is no WAV file", id="empty"),
        pytest.param(b"", ".mp3", "is no MP3 file from byte 0 on", id="empty MP3"),
        pytest.param(b"OggS" + b"\0" * 100, ".wav", "is no WAV file", id="another kind"),
        pytest.param(TONE.read_bytes(), ".wav", "is no WAV file", id="an MP3 that is called WAV"),
        pytest.param(g711(6, 100), ".mp3", "is no MP3 file", id="a WAV that is called MP3"),
        pytest.param(riff((b"data", b"\0" * 80)), ".wav", "it has no format", id="no format"),
        pytest.param(riff((b"fmt ", b"\1\0")), ".wav", "it has no format", id="format too short"),
        pytest.param(g711(6, 0), ".wav", "has no sound in it", id="no sample"),
        pytest.param(g711(6, 100)[:-1], ".wav", "is cut off", id="cut off"),
        pytest.param(g711(6, 100, channels=2), ".wav", "must be 8000 Hz, mono", id="stereo"),
        pytest.param(g711(3, 100), ".wav", "must be 8000 Hz, mono", id="floating point"),
        pytest.param(TONE.read_bytes()[:-1], ".mp3", "is cut off in its last frame", id="MP3 cut off"),
        pytest.param(TONE.read_bytes() + b"<html>", ".mp3", "no MP3 file from byte 648 on", id="text behind"),
        pytest.param(b"\xff\xfd\x90\x00" + b"\0" * 400, ".mp3", "is no MP3 file from byte 0 on", id="layer II"),
        pytest.param(b"\xff\xeb\x90\x00" + b"\0" * 400, ".mp3", "is no MP3 file from byte 0 on", id="no version"),
        pytest.param(b"\xff\xfb\xf0\x00" + b"\0" * 400, ".mp3", "is no MP3 file from byte 0 on", id="no bit rate"),
        pytest.param(b"\xff\xfb\x9c\x00" + b"\0" * 400, ".mp3", "is no MP3 file from byte 0 on", id="no rate"),
    ],
)
def test_what_a_carrier_could_not_play_is_refused(data: bytes, suffix: str, words: str) -> None:
    with pytest.raises(NotPlayable, match=words):
        seconds_of(data, suffix)


def test_damaged_files_are_refused_or_read_but_break_nothing() -> None:
    rng = noise("damage")
    for original, suffix in ((TONE.read_bytes(), ".mp3"), (g711(6, 600), ".wav")):
        for _ in range(2000):
            data = bytearray(original[: rng.randrange(len(original))])
            for _ in range(min(3, len(data))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with contextlib.suppress(NotPlayable):
                assert seconds_of(bytes(data), suffix) > 0


# The folder


def test_a_complete_folder_is_read_with_everything_in_it(folder: Path) -> None:
    (folder / "hi" / "LICENSE.txt").write_text("ours")
    (folder / "hi" / ".DS_Store").write_text("not ours")
    write_wav(folder / "sets" / "bank" / "hi.wav")
    files = load_recordings(folder, REQUIRED_RECORDINGS)
    assert {path.split("/")[0] for path in files} == {"hi", "en-GB", "sets", "shop-prompts"}
    assert files["hi/7.wav"].data == (folder / "hi" / "7.wav").read_bytes()
    assert (files["hi/7.wav"].seconds, files["hi/7.wav"].media_type) == (0.25, "audio/wav")
    assert (files["shop-prompts/jingle.mp3"].media_type, "sets/bank/hi.wav" in files) == ("audio/mpeg", True)
    assert not any(path.endswith((".txt", "_Store")) for path in files)
    assert "RIFF" not in repr(files["hi/7.wav"])


def test_all_that_is_missing_is_listed_by_language(folder: Path) -> None:
    for name in ("3", "b", "c", "d", "y", "z", "goodbye"):
        (folder / "hi" / f"{name}.wav").unlink()
    (folder / "en-GB" / "a.wav").rename(folder / "en-GB" / "A.wav")
    (folder / "pt-BR").mkdir()
    every = f"0-9, a-z, {', '.join(name for name in REQUIRED_RECORDINGS if len(name) > 1)}"
    assert problems_of(folder, REQUIRED_RECORDINGS) == [
        f"{language} is named like a language, but has no .wav for {names} (names are in lower case)"
        for language, names in (("en-GB", "a"), ("hi", "3, b-d, y, z, goodbye"), ("pt-BR", every))
    ]


def test_each_bad_file_is_named_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_audio, "MOST_BYTES_OF_A_FILE", 1_000_000)
    write_wav(folder / "hi" / "0.wav", rate=44_100, channels=2)
    (folder / "hi" / "1.wav").write_bytes(b"")
    write_wav(folder / "shop-prompts" / "long.wav", 63)
    (folder / "hi" / "2.wav").unlink()
    (folder / "hi" / "2.wav").mkdir()
    assert problems_of(folder, REQUIRED_RECORDINGS) == [
        "hi/0.wav must be 8000 Hz, mono, 16 bit PCM or G.711, and is 44100 Hz, 2 channels, 16 bit in format 1",
        "hi/1.wav is no WAV file",
        "shop-prompts/long.wav is larger than 1 MB",
        "hi is named like a language, but has no .wav for 2 (names are in lower case)",
    ]


def test_links_out_of_the_folder_or_to_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    write_language(tmp_path / "elsewhere", "de")
    (folder / "de").symlink_to(tmp_path / "elsewhere" / "de")
    (folder / "nl").symlink_to(folder / "hi")
    (folder / "circle").symlink_to(folder)
    (folder / "shop-prompts" / "out.wav").symlink_to(tmp_path / "elsewhere" / "de" / "7.wav")
    (folder / "shop-prompts" / "nothing.wav").symlink_to(folder / "nothing.wav")
    (folder / "shop-prompts" / "self.wav").symlink_to(folder / "shop-prompts" / "self.wav")
    (folder / "shop-prompts" / "fine.wav").symlink_to(Path("..") / "hi" / "7.wav")
    names = ("circle", "de", "nl", *(f"shop-prompts/{name}.wav" for name in ("nothing", "out", "self")))
    assert problems_of(folder) == [f"{name} is a link to a folder, or to no file in this one" for name in names]


def test_a_link_to_the_folder_itself_is_fine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert load_recordings(tmp_path / "link", NAMES).keys() == load_recordings(folder, NAMES).keys()


def test_a_folder_that_is_not_there_or_empty_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert problems_of(tmp_path / "empty") == [f"{tmp_path / 'empty'} has no .wav and no .mp3 file in it"]
    assert problems_of(tmp_path / "none") == [f"{tmp_path / 'none'} cannot be read: No such file or directory"]
    (tmp_path / "file").write_text("")
    assert problems_of(tmp_path / "file") == [f"{tmp_path / 'file'} cannot be read: Not a directory"]


@pytest.mark.parametrize("name", ["MOST_BYTES", "MOST_FILES"])
def test_what_is_kept_in_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(recorded_audio, name, 50)
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{folder} has more than")


# Addresses


def opened(folder: Path, time: FakeTime, *secrets: str, url: str = URL) -> Recordings:
    return Recordings(load_recordings(folder, NAMES), secrets or (OTP_SECRET,), url, time.clock)


def name_of(recordings: Recordings, path: str) -> str:
    """The last part of an address, which no log line may hold."""
    return keep_secret(recordings.sound(path).url.rpartition("/")[2])


def test_an_address_is_under_the_public_url_and_tells_nothing(folder: Path, fake_time: FakeTime) -> None:
    recordings = opened(folder, fake_time)
    assert recordings.languages == ("en-GB", "hi")
    assert recordings.sound("hi/7") == recordings.sound("hi/7.wav")
    assert recordings.sound("hi/7").seconds == 0.25
    urls = {path: recordings.sound(path).url for path in load_recordings(folder, NAMES)}
    assert len(set(urls.values())) == len(urls)
    for url in urls.values():
        start, _, name = url.rpartition("/")
        digest, _, suffix = name.rpartition(".")
        assert (start, suffix in ("wav", "mp3"), len(digest)) == (f"{URL}/audio", True, 32)
        assert set(digest) <= set("0123456789abcdef")
    assert urls["shop-prompts/jingle.mp3"] == recordings.sound("shop-prompts/jingle").url


def test_of_two_files_of_one_name_the_wav_is_meant(folder: Path, fake_time: FakeTime) -> None:
    shutil.copy(TONE, folder / "hi" / "7.mp3")
    recordings = opened(folder, fake_time)
    assert recordings.sound("hi/7") == recordings.sound("hi/7.wav") != recordings.sound("hi/7.mp3")


@pytest.mark.parametrize("path", ["hi/~", "", "hi", "../hi/7", "/hi/7", "HI/7", "hi/7.mp3", "de/7"])
def test_an_unknown_recording_is_not_named(folder: Path, fake_time: FakeTime, path: str) -> None:
    with pytest.raises(UnknownRecording) as unknown:
        opened(folder, fake_time).sound(path)
    assert unknown.value.args == ("there is no such recording",)
    assert isinstance(unknown.value, KeyError)


def test_addresses_are_the_same_for_an_hour_and_good_for_another(folder: Path, fake_time: FakeTime) -> None:
    recordings, other = opened(folder, fake_time), opened(folder, fake_time)
    fake_time.advance(60)
    first = recordings.sound("hi/7").url
    name = name_of(recordings, "hi/7")
    fake_time.advance(3600 - 61)
    assert other.sound("hi/7").url == first
    fake_time.advance(1)
    assert recordings.sound("hi/7").url != first
    for seconds_left in (3600, 1):
        for one in (recordings, other, opened(folder, fake_time)):
            found = one.find(name)
            assert found is not None
            assert (found[0].data, found[1]) == ((folder / "hi" / "7.wav").read_bytes(), seconds_left)
        fake_time.advance(seconds_left - 1 or 1)
    assert recordings.find(name) is None
    assert opened(folder, fake_time).find(name) is None


def test_a_machine_whose_clock_is_a_little_behind_serves_the_next_hours_addresses(
    folder: Path, fake_time: FakeTime
) -> None:
    ahead = FakeTime()
    ahead.advance(1)
    fake_time.wall_seconds -= 1
    assert opened(folder, fake_time).find(name_of(opened(folder, ahead), "hi/7")) is not None


def test_a_replaced_recording_has_another_address(folder: Path, fake_time: FakeTime) -> None:
    before = opened(folder, fake_time)
    write_wav(folder / "hi" / "7.wav", 0.5)
    after = opened(folder, fake_time)
    assert before.sound("hi/7").url != after.sound("hi/7").url
    assert before.sound("hi/1") == after.sound("hi/1")
    assert after.find(name_of(before, "hi/7")) is None


def test_files_with_the_same_content_have_addresses_of_their_own(folder: Path, fake_time: FakeTime) -> None:
    shutil.copy(folder / "hi" / "7.wav", folder / "hi" / "1.wav")
    recordings = opened(folder, fake_time)
    assert recordings.sound("hi/7").url != recordings.sound("hi/1").url


def test_addresses_of_a_replaced_secret_are_served_until_it_is_gone(folder: Path, fake_time: FakeTime) -> None:
    old, new = opened(folder, fake_time, OLD_SECRET), opened(folder, fake_time, NEW_SECRET)
    during = opened(folder, fake_time, NEW_SECRET, OLD_SECRET)
    name = name_of(old, "hi/7")
    assert during.sound("hi/7") == new.sound("hi/7") != old.sound("hi/7")
    assert during.find(name) is not None
    assert during.find(name_of(during, "hi/7")) is not None
    assert new.find(name) is None


def test_a_file_name_of_any_bytes_has_an_address(fake_time: FakeTime) -> None:
    path = os.fsdecode(b"hi/\xff.wav")
    recordings = Recordings({path: Recording(b"x", 1, "audio/wav")}, (OTP_SECRET,), URL, fake_time.clock)
    assert recordings.find(name_of(recordings, path)) is not None


# Serving


class Served:
    """A running service with recordings, and the addresses that its scripts would hold."""

    def __init__(self, service: RunningService, recordings: Recordings, folder: Path) -> None:
        self.service = service
        self.recordings = recordings
        self.folder = folder

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.service.client.request(method, f"/audio/{name_of(self.recordings, path)}", headers=sent)


@pytest.fixture
async def served(folder: Path, fake_time: FakeTime) -> AsyncIterator[Served]:
    async with run_service(fake_time.clock, audio_dir=folder, otp_secret=OTP_SECRET) as service:
        yield Served(service, opened(folder, fake_time, url=service.settings.base_url), folder)


async def test_a_carrier_gets_the_recording_and_may_keep_it_until_its_address_ends(
    served: Served, fake_time: FakeTime
) -> None:
    fake_time.advance(600)
    async with httpx.AsyncClient() as carrier:
        answer = await carrier.get(served.recordings.sound("hi/7").url)
    assert (answer.status_code, answer.content) == (200, (served.folder / "hi" / "7.wav").read_bytes())
    expected = {
        "content-type": "audio/wav",
        "content-length": str(len(answer.content)),
        "cache-control": "public, max-age=6600, immutable",
        "accept-ranges": "none",
        "x-content-type-options": "nosniff",
        "etag": f'"{name_of(served.recordings, "hi/7")}"',
    }
    assert expected.items() <= dict(answer.headers).items()
    assert len(answer.headers.get_list("cache-control")) == 1
    mp3 = await served.ask("shop-prompts/jingle.mp3")
    assert (mp3.headers["content-type"], mp3.content) == ("audio/mpeg", TONE.read_bytes())


async def test_head_tells_the_same_without_the_recording(served: Served) -> None:
    got, told = await served.ask("hi/7"), await served.ask("hi/7", "HEAD")
    assert (told.status_code, told.content) == (200, b"")
    changing = {"x-request-id", "date"}
    assert {k: v for k, v in told.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }


async def test_a_range_gets_the_whole_recording(served: Served) -> None:
    answer = await served.ask("hi/7", range="bytes=0-9")
    assert (answer.status_code, answer.content) == (200, (served.folder / "hi" / "7.wav").read_bytes())


@pytest.mark.parametrize(
    ("held", "status"),
    [
        pytest.param("{etag}", 304, id="the same"),
        pytest.param("W/{etag}", 304, id="weakly the same"),
        pytest.param('"x", {etag}', 304, id="one of several"),
        pytest.param("*", 304, id="any"),
        pytest.param('"x"', 200, id="another"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_a_carrier_has_already_is_not_sent_again(
    served: Served, method: str, held: str, status: int
) -> None:
    etag = (await served.ask("hi/7")).headers["etag"]
    answer = await served.ask("hi/7", method, if_none_match=held.format(etag=etag))
    assert answer.status_code == status
    assert answer.headers["etag"] == etag
    assert answer.headers["cache-control"].startswith("public")
    if status == 304:
        assert answer.content == b""
        assert "content-length" not in answer.headers
        assert (await served.ask("hi/7")).status_code == 200, "the connection goes on"


async def test_an_address_ends(served: Served, fake_time: FakeTime) -> None:
    path = f"/audio/{name_of(served.recordings, 'hi/7')}"
    fake_time.advance(7199)
    answer = await served.service.client.get(path)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=1, immutable")
    fake_time.advance(1)
    assert_refused(await served.service.client.get(path))
    assert (await served.ask("hi/7")).status_code == 200, "the next one is good"


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (404, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda name: name[:-5] + ("1" if name[-5] == "0" else "0") + name[-4:], id="one digit"),
        pytest.param(lambda name: name.replace(".wav", ".mp3"), id="another suffix"),
        pytest.param(lambda name: name.removesuffix(".wav"), id="no suffix"),
        pytest.param(lambda name: name.replace(".wav", ".WAV"), id="capitals"),
        pytest.param(lambda name: name[1:], id="shorter"),
        pytest.param(lambda name: name + "%00", id="longer"),
        pytest.param(lambda name: "0" * 32 + ".wav", id="guessed"),
        pytest.param(lambda name: "7.wav", id="a file's name"),
        pytest.param(lambda name: "%20", id="a space"),
    ],
)
async def test_a_changed_or_guessed_address_is_refused(served: Served, change: Callable[[str], str]) -> None:
    name = name_of(served.recordings, "hi/7")
    assert_refused(await served.service.client.get(f"/audio/{change(name)}"))


@pytest.mark.parametrize(
    "target",
    [
        "/audio/hi/7.wav", "/audio/hi%2f7.wav", "/audio/../hi/7.wav", "/audio/%2e%2e%2fhi%2f7.wav",
        "/audio/..%2f..%2f..%2fetc%2fpasswd", "/audio/../../../etc/passwd", "/audio/....//....//etc/passwd",
        "/audio/%252e%252e%252fhi%252f7.wav", "/audio//etc/passwd", "/audio/%2fetc%2fpasswd",
        "/audio/..%5chi%5c7.wav", "/audio/%c0%ae%c0%ae/hi/7.wav", "/audio/.", "/audio/", "/audio", "/audio/%00",
    ],
)  # fmt: skip
async def test_no_path_leads_to_a_file(served: Served, target: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.service.settings.http_port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404"), head
    assert b"RIFF" not in body
    assert b"root:" not in body


async def test_other_methods_are_refused(served: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await served.ask("hi/7", method)).status_code == 405


async def test_no_log_line_tells_what_was_fetched(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="lean_route")
    caplog.set_level(logging.DEBUG, logger="recorded_audio")
    for path in ("hi/6", "hi/1", "hi/0"):
        assert (await served.ask(path)).status_code == 200
    name = name_of(served.recordings, "hi/7")
    for refused in (f"/audio/{name[1:]}", f"/audio/{name}/{name}", f"/audio/hi/{name}"):
        assert (await served.service.client.get(refused)).status_code == 404
    # pytest listens to uvicorn's access log, too, which the service has switched off.
    records = [record for record in caplog.records if record.name != "uvicorn.access"]
    requests = [record for record in records if record.getMessage() == "request"]
    told = [(record.levelname, vars(record)["route"], vars(record)["status"]) for record in requests]
    fetched, other = ("DEBUG", "/audio/{name}"), ("INFO", "other", 404)
    assert told == [*[(*fetched, 200)] * 3, (*fetched, 404), other, other]
    for record in records:
        for line in (JsonFormatter().format(record), ConsoleFormatter().format(record)):
            assert name[1:-4] not in line
            assert "hi/" not in line
            assert ".wav" not in line
    (warning,) = [record for record in records if record.levelname == "WARNING"]
    assert warning.getMessage() == "recording refused: unknown or old address"
    assert vars(warning)["request_id"] == vars(requests[3])["request_id"]


# The start


def test_bad_recordings_stop_the_start_with_a_line_each(folder: Path) -> None:
    (folder / "hi" / "3.wav").unlink()
    (folder / "shop-prompts" / "jingle.mp3").write_bytes(b"")
    with pytest.raises(BadSettings) as bad:
        create_app(load_settings(audio_dir=folder))
    assert bad.value.problems == [
        "AUDIO_DIR: shop-prompts/jingle.mp3 is no MP3 file from byte 0 on",
        "AUDIO_DIR: hi is named like a language, but has no .wav for 3 (names are in lower case)",
    ]


def test_the_program_itself_says_what_is_missing(folder: Path) -> None:
    (folder / "hi" / "3.wav").unlink()
    (folder / "en-GB" / "z.wav").unlink()
    with program(folder.parent, HTTP_PORT="0", AUDIO_DIR="audio") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert [line.split(" is named")[0] for line in said.splitlines()] == [
        "voice-otp: AUDIO_DIR: en-GB",
        "voice-otp: AUDIO_DIR: hi",
    ]


def test_the_program_itself_serves_and_writes_no_address_down(folder: Path) -> None:
    with program(folder.parent, HTTP_PORT="0", AUDIO_DIR="audio", OTP_SECRET=OTP_SECRET) as process:
        url = wait_for_line(process, "/phone")[-1].split()[-1].removesuffix("/phone")
        said = wait_for_line(process, "startup complete")
        recordings = Recordings(load_recordings(folder, NAMES), (OTP_SECRET,), url, Clock())
        name = name_of(recordings, "hi/7")
        with httpx.Client(timeout=10) as client:
            assert client.get(recordings.sound("hi/7").url).content == (folder / "hi" / "7.wav").read_bytes()
            assert client.get(f"{url}/audio/x{name}").status_code == 404
            assert client.get(f"{url}/audio/hi/{name}").status_code == 404
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=30)[1].splitlines()
    text = "".join(said)
    assert "recording refused" in text
    assert name[:-4] not in text
    assert leaks_in(text) == []


async def test_without_a_folder_there_is_no_such_route(service: RunningService) -> None:
    answer = await service.client.get(f"/audio/{'0' * 32}.wav")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_route_is_described_with_what_it_answers(folder: Path) -> None:
    paths = create_app(load_settings(audio_dir=folder)).openapi()["paths"]
    assert list(paths["/audio/{name}"]) == ["get"]
    answers = paths["/audio/{name}"]["get"]["responses"]
    assert list(answers) == ["200", "304", "404"]
    assert list(answers["200"]["content"]) == ["audio/wav", "audio/mpeg"]
