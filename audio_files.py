"""Audio files that carriers play: what is accepted of them, and how long they last, read from their headers."""

import struct

SAMPLES_A_SECOND = 8000
# Format tag and bits of a sample to bytes a sample: PCM, and G.711 in both of its laws.
_SAMPLE_BYTES = {(1, 16): 2, (6, 8): 1, (7, 8): 1}

# Of MPEG 1, and of MPEG 2 and 2.5; layer III only.
_MP3_KBPS = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_MP3_RATES = (44_100, 48_000, 32_000)
_MP3_RATE_DIVISORS = {3: 1, 2: 2, 0: 4}  # by the version in a frame's header: MPEG 1, 2, 2.5
_MP3_TAGS_AT_END = (b"TAG", b"APETAGEX")


class NotPlayable(ValueError):
    """Says why, in words that follow the file's name."""


def seconds_of(data: bytes, suffix: str) -> float:
    """How long a file of this suffix (.wav or .mp3) lasts.

    WAV must be 8 kHz, mono, 16 bit PCM or G.711, which telephones carry (Vobiz and CM.com advise it, documented);
    MP3 may be of any kind. Raises: NotPlayable.
    """
    seconds = _wav_seconds(data) if suffix == ".wav" else _mp3_seconds(data)
    if not seconds:
        raise NotPlayable("has no sound in it")
    return seconds


def _wav_seconds(data: bytes) -> float:
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise NotPlayable("is no WAV file")
    at, sample_bytes = 12, 0
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if at + size > len(data):
            raise NotPlayable("is cut off: its header names more than there is")
        if name == b"fmt " and size >= 16:
            sample_bytes = _sample_bytes(*struct.unpack_from("<HHI6xH", data, at))
        elif name == b"data" and sample_bytes:
            return float(size // sample_bytes / SAMPLES_A_SECOND)
        at += size + size % 2  # chunks begin at even offsets
    raise NotPlayable("is no WAV file: it has no format, or no data")


def _sample_bytes(tag: int, channels: int, rate: int, bits: int) -> int:
    sample_bytes = _SAMPLE_BYTES.get((tag, bits))
    if channels != 1 or rate != SAMPLES_A_SECOND or sample_bytes is None:
        found = f"{rate} Hz, {channels} channels, {bits} bit in format {tag}"
        raise NotPlayable(f"must be 8000 Hz, mono, 16 bit PCM or G.711, and is {found}")
    return sample_bytes


def _mp3_seconds(data: bytes) -> float:
    at, seconds = _length_of_id3(data), 0.0
    while (frame := _mp3_frame(data[at : at + 4])) is not None:
        length, lasts = frame
        at += length
        seconds += lasts
    if at > len(data):
        raise NotPlayable("is cut off in its last frame")
    rest = data[at:]
    if not seconds or not (rest.startswith(_MP3_TAGS_AT_END) or not rest.strip(b"\0")):
        raise NotPlayable(f"is no MP3 file from byte {at} on")
    return seconds


def _length_of_id3(data: bytes) -> int:
    """The tag before the first frame: its length is in the low seven bits of four bytes."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    footer = 10 if data[5] & 0x10 else 0
    return 10 + size + footer


def _mp3_frame(header: bytes) -> tuple[int, float] | None:
    """Bytes and seconds of a frame; None for what is no header of one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # 11 bits of sync, and layer III
        return None
    divisor = _MP3_RATE_DIVISORS.get(header[1] >> 3 & 3)
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if divisor is None or bitrate in (0, 15) or rate == 3:
        return None
    is_half = divisor > 1
    per_second = _MP3_RATES[rate] // divisor
    samples = 576 if is_half else 1152
    length = samples // 8 * _MP3_KBPS[is_half][bitrate - 1] * 1000 // per_second + (header[2] >> 1 & 1)
    return length, samples / per_second
