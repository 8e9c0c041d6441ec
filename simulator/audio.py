"""Audio files that simulated carriers play: fetched from the customer, each once, and as long as they last."""

import asyncio
import logging
import struct
from collections import OrderedDict

import httpx

logger = logging.getLogger(__name__)

AUDIO_SECONDS = 3.0  # of files whose length is not read: MP3
MAX_BYTES = 10_000_000  # documented by Plivo
MAX_FILES = 1000
SECONDS_TO_FETCH = 10


class AudioFiles:
    """How long the files at some URLs last. What could not be played is fetched again the next time."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._seconds: OrderedDict[str, float] = OrderedDict()
        self._is_fetching = asyncio.Lock()

    async def seconds_of(self, url: str) -> float:
        """0 for a file that cannot be had, or is no audio."""
        async with self._is_fetching:  # many calls play the same files
            seconds = self._seconds.get(url) or await self._fetch(url)
            if seconds:
                self._seconds[url] = seconds
            while len(self._seconds) > MAX_FILES:
                self._seconds.popitem(last=False)
        return seconds

    async def _fetch(self, url: str) -> float:
        try:
            async with asyncio.timeout(SECONDS_TO_FETCH):
                return audio_seconds(await self._read(url))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            reason = str(error) if isinstance(error, ValueError) else type(error).__name__
            logger.warning("simulated carrier: a file is not played: %s", reason)
            return 0.0

    async def _read(self, url: str) -> bytes:
        data = bytearray()
        async with self._http.stream("GET", url) as response:
            if not response.is_success:
                raise ValueError(f"HTTP {response.status_code}")
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_BYTES:
                    raise ValueError("it is too large")
        return bytes(data)


def audio_seconds(data: bytes) -> float:
    """How long a WAV file lasts, by its header; MP3 is taken to last `AUDIO_SECONDS`. Raises: ValueError."""
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        return AUDIO_SECONDS
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("it is no audio")
    at, bytes_a_second = 12, 0
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"fmt " and at + 12 <= len(data):
            (bytes_a_second,) = struct.unpack_from("<I", data, at + 8)
        elif name == b"data" and bytes_a_second:
            return float(min(size, len(data) - at) / bytes_a_second)
        at += size + size % 2
    raise ValueError("it has no sound in it")
