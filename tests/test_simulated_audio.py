"""Files that simulated carriers play: fetched once, as long as they last, skipped where they cannot be played."""

import asyncio
import struct
import wave
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

from simulator import audio
from simulator.audio import AUDIO_SECONDS, AudioFiles, audio_seconds
from simulator.call import Customs
from simulator.callees import ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.lines import ScriptedLine
from simulator.vobiz_call import VobizCall, callback_sender
from speech import REQUIRED_RECORDINGS
from tests.browser import NEEDS_CHROMIUM, expect_seen, open_browser, open_page
from tests.conftest import keep_secret, run_service
from tests.test_simulator import Customers, xml_request

NO_WAITING = SimulatorClock(float("inf"))
MP3 = Path(__file__).parent / "payloads" / "audio" / "tone.mp3"


def write_wav(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(str(path).encode().ljust(int(seconds * 16_000), b"\0"))  # no two are alike


@pytest.fixture
def wav(tmp_path: Path) -> bytes:
    write_wav(tmp_path / "x.wav", 1.5)
    return (tmp_path / "x.wav").read_bytes()


# One file


def test_the_length_of_a_file_is_that_of_its_sound(wav: bytes) -> None:
    assert audio_seconds(wav) == pytest.approx(1.5)
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert audio_seconds(wav[:12] + extra + wav[12:]) == pytest.approx(1.5)
    assert audio_seconds(wav[: 44 + 8000]) == pytest.approx(0.5), "cut off: what is there is played"
    assert audio_seconds(MP3.read_bytes()) == AUDIO_SECONDS


@pytest.mark.parametrize("data", [b"", b"<Response/>", b"RIFF1234WAVE", b"RIFF1234WAVEdata\4\0\0\0abcd"])
def test_what_is_no_audio_is_not_played(data: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        audio_seconds(data)


class FileServer:
    """Answers by path, and counts what it was asked for."""

    def __init__(self, **answers: httpx.Response | Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path[1:])
        await asyncio.sleep(0)
        answer = self.answers[self.asked[-1]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def files(self) -> AudioFiles:
        return AudioFiles(httpx.AsyncClient(transport=httpx.MockTransport(self)))


async def test_a_file_is_fetched_once_also_for_calls_at_the_same_time(wav: bytes) -> None:
    server = FileServer(hello=httpx.Response(200, content=wav))
    files = server.files()
    found = await asyncio.gather(*(files.seconds_of("https://otp.example.com/hello") for _ in range(20)))
    assert set(found) == {1.5}
    assert server.asked == ["hello"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(404), id="not found"),
        pytest.param(httpx.Response(302, headers={"location": "/x"}), id="redirect"),
        pytest.param(httpx.Response(200, text="hello"), id="no audio"),
        pytest.param(httpx.ConnectError("gone"), id="no connection"),
        pytest.param(httpx.Response(200, content=b"RIFF" * 100), id="too large"),
    ],
)
async def test_a_file_that_cannot_be_played_is_asked_for_again_the_next_time(
    answer: httpx.Response | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "MAX_BYTES", 300)
    server = FileServer(hello=answer)
    files = server.files()
    for _ in range(2):
        assert await files.seconds_of("https://otp.example.com/hello") == 0
    assert server.asked == ["hello", "hello"]


async def test_lengths_are_not_kept_without_end(wav: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_FILES", 2)
    server = FileServer(**{name: httpx.Response(200, content=wav) for name in "abc"})
    files = server.files()
    for name in "abcab":
        await files.seconds_of(f"https://otp.example.com/{name}")
    assert server.asked == list("abcab")


async def test_a_document_plays_what_can_be_played_and_skips_the_rest(wav: bytes) -> None:
    server = FileServer(good=httpx.Response(200, content=wav), bad=httpx.Response(404))
    play = "<Play>https://otp.example.com/{}</Play>".format
    document = (
        f'{play("good")}<Play loop="0">https://otp.example.com/bad</Play>'
        f'<Gather action="https://otp.example.com/choice" executionTimeout="5" numDigits="1">{play("bad")}'
        f"{play('good')}</Gather>"
    )
    customer = Customers(answer=document)
    sender = callback_sender(httpx.AsyncClient(transport=httpx.MockTransport(customer)), NO_WAITING, None)
    line = ScriptedLine(ScriptedCallee("listens"), NO_WAITING)
    call = VobizCall(xml_request(), line, NO_WAITING, Customs(), sender, "MA_TEST")
    call.audio = server.files()
    await call.run()
    assert call.talk_seconds == pytest.approx(1.5 + 1.5 + 5)
    assert call.failure_reason == ""


# Whole calls


CODE = keep_secret("610389")
CHARACTER_SECONDS, PROMPT_SECONDS = 0.5, 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in REQUIRED_RECORDINGS:
        seconds = CHARACTER_SECONDS if len(name) == 1 else PROMPT_SECONDS
        write_wav(tmp_path / "recordings" / "en-US" / f"{name}.wav", seconds)
    return tmp_path / "recordings"


@pytest.mark.parametrize("carrier", ["vobiz", "plivo", "voipbin"])
async def test_a_call_with_recordings_lasts_as_long_as_they_do(folder: Path, carrier: str) -> None:
    settings: dict[str, Any] = {
        "simulate": True,
        "providers": carrier,
        "audio_dir": folder,
        "digit_pause_seconds": 0,
    }
    settings |= {"lead_in_seconds": 0, "reading_pause_seconds": 0, "readings": 1}
    async with run_service(**settings) as service:
        sent = (await service.send("+14155550101", code=CODE, max_replays=0)).json()
        await service.calls_over()
        call = service.carrier.records[sent["call_uuid"]]
        assert call.spoken == [], "nothing but recordings"
        prompts = 3  # greeting, code prompt, goodbye
        assert call.talk_seconds == pytest.approx(6 * CHARACTER_SECONDS + prompts * PROMPT_SECONDS)
        assert len(service.carrier.audio._seconds) == 6 + prompts


@NEEDS_CHROMIUM[0]
@NEEDS_CHROMIUM[2]
async def test_the_phone_page_plays_the_recordings(folder: Path) -> None:
    fetched: list[str] = []
    async with run_service(audio_dir=folder, simulator_speed=5) as service:
        # Under another name of this machine than the recordings' addresses have.
        url = f"http://localhost:{service.settings.http_port}/phone"
        async for browser in open_browser():
            async for page in open_page(browser, url):
                page.on("request", lambda request: fetched.append(request.url))
                await page.click("#call-me")
                await page.click("#answer")
                await expect_seen(page, "A recording is played")
                await expect(page.locator("#key-prompt")).to_have_text("Press a key now")
                await page.click("#hang-up")
                await expect(page.locator("#call-state")).to_have_text("Call ended")
    assert any("/audio/" in url for url in fetched)
