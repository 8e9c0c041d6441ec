"""Recordings of the operator's: checked at the start, and served to carriers under addresses that tell nothing.

A code is played as one file per character, so an address that named its file would write the code into every log
on its way. An address is a keyed digest over the file and the hour in which it ends, the same for every call
within an hour so that carriers can cache; the server finds the file in a table of the digests of its own files.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from starlette.responses import Response
from starlette.routing import BaseRoute

from audio_files import NotPlayable, seconds_of
from clock import Clock
from lean_route import LeanRequest, LeanRoute, Reply
from sealing import derive_key

logger = logging.getLogger(__name__)

PATH = "/audio"
MEDIA_TYPES = {".wav": "audio/wav", ".mp3": "audio/mpeg"}
MOST_BYTES_OF_A_FILE = 10_000_000  # documented by Plivo
MOST_BYTES = 256 * 1024 * 1024
MOST_FILES = 5000  # whose digests take some 20 ms, once an hour

_WINDOW_SECONDS = 3600
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


class BadRecordings(ValueError):
    """A folder that cannot be started with; `problems` are one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnknownRecording(KeyError):
    """There is no such file. Does not say which: a name may be a character of a code."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    data: bytes = field(repr=False)
    seconds: float
    media_type: str


class Sound(NamedTuple):
    """Where a carrier fetches a recording, and how long it lasts."""

    url: str
    seconds: float


class _Window(NamedTuple):
    """The addresses that end at one moment."""

    sounds: dict[str, Sound]
    recordings: dict[str, Recording]


class Recordings:
    """Gives recordings their addresses, and finds them again.

    An address is good for one to two hours. Takes one or two secrets: the first makes new addresses, those of each
    one are served.
    """

    def __init__(
        self, files: Mapping[str, Recording], secrets_in_use: Sequence[str], public_url: str, clock: Clock
    ) -> None:
        self._files = files
        # With the content, so that a new recording of the same name is not taken for the one that a carrier keeps.
        self._signed = {
            path: path.encode(errors="surrogateescape") + sha256(recording.data).digest()
            for path, recording in files.items()
        }
        # Of two files that differ in the suffix only, .wav comes last and wins.
        without_suffix = {path.rpartition(".")[0]: path for path in sorted(files)}
        self._paths = {**without_suffix, **{path: path for path in files}}
        self._keys = [derive_key(secret, b"recording") for secret in secrets_in_use]
        self._base_url = f"{public_url}{PATH}/"
        self._wall = clock.wall
        self._windows: dict[int, _Window] = {}
        self._hour, self._sounds = -1.0, dict[str, Sound]()  # those of the hour, for `sound`
        self.languages = tuple(dict.fromkeys(filter(None, map(_language_of, sorted(files)))))

    def sound(self, path: str) -> Sound:
        """The recording of a path below the folder, such as `hi/7` or `shop/greeting.mp3`.

        Without a suffix it is the WAV, where there is one. Raises: UnknownRecording.
        """
        hour = self._wall() // _WINDOW_SECONDS
        if hour != self._hour:
            self._hour, self._sounds = hour, self._window(int(hour) + 2).sounds
        try:
            return self._sounds[path]
        except KeyError:
            raise UnknownRecording("there is no such recording") from None

    def has(self, path: str) -> bool:
        return path in self._paths

    def find(self, name: str) -> tuple[Recording, int] | None:
        """The recording whose address ends with this name, and the seconds for which that is still good."""
        now = self._wall()
        hour = int(now // _WINDOW_SECONDS)
        # The last one begins with the next hour: the clock of a machine beside this one may be a little ahead.
        for end in (hour + 2, hour + 1, hour + 3):
            recording = self._window(end).recordings.get(name)
            if recording is not None:
                return recording, int(end * _WINDOW_SECONDS - now)
        return None

    def _window(self, end: int) -> _Window:
        """The addresses that end with the beginning of this hour, counted from 1970; ended ones are forgotten."""
        if (known := self._windows.get(end)) is not None:
            return known
        self._windows = {one: known for one, known in self._windows.items() if one > end - 3}
        keys = [blake2b(b"%d" % end, key=key).digest() for key in self._keys]
        recordings, sounds = {}, {}
        for path, recording in self._files.items():
            signed, suffix = self._signed[path], path[-4:]
            names = [blake2b(signed, key=key, digest_size=16).hexdigest() + suffix for key in keys]
            recordings.update(dict.fromkeys(names, recording))
            sounds[path] = Sound(self._base_url + names[0], recording.seconds)
        window = _Window({name: sounds[path] for name, path in self._paths.items()}, recordings)
        self._windows[end] = window
        return window


def routes(recordings: Recordings | None) -> list[BaseRoute]:
    """Where carriers fetch recordings. The digest in an address is all that authorises a request."""
    if recordings is None:
        return []

    async def audio(request: LeanRequest, name: str) -> Reply:
        """A recording that the script of a call refers to; its address is good for two hours at the most."""
        found = recordings.find(name)
        if found is None:
            logger.warning("recording refused: unknown or old address", extra={"request_id": request.request_id})
            return Reply(404, b"", "text/plain")
        recording, seconds_left = found
        # An ETag over the content alone would tell which file this is.
        headers = {"etag": f'"{name}"', "accept-ranges": "none"}
        caching = f"public, max-age={seconds_left}, immutable"
        if _has_it(request, headers["etag"]):
            return Reply(304, b"", recording.media_type, headers, caching)
        return Reply(200, recording.data, recording.media_type, headers, caching)

    def route(method: str, **options: Any) -> LeanRoute:
        # Quiet: a call fetches some twenty of them, and a line for each would hide the others.
        return LeanRoute(f"{PATH}/{{name}}", audio, methods=[method], is_quiet=True, **options)

    return [
        route("GET", tags=["carrier"], responses=_ANSWERS, response_class=Response),
        route("HEAD", include_in_schema=False),
    ]


def _has_it(request: LeanRequest, etag: str) -> bool:
    held = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return etag in held or "*" in held


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "the recording", "content": {media_type: {} for media_type in MEDIA_TYPES.values()}},
    304: {"description": "the recording that `If-None-Match` names is still the one"},
    404: {"description": "no recording has this address, or none any more"},
}


def _language_of(path: str) -> str:
    """The language whose folder a path is in; empty for any other folder."""
    folder, slash, _ = path.partition("/")
    return folder if slash and _LANGUAGE.fullmatch(folder) else ""


def load_recordings(folder: Path, required: Collection[str]) -> dict[str, Recording]:
    """All audio files below a folder, by their paths in it, such as `hi/7.wav`.

    Each folder that is named like a language must have each of the required names as WAV.
    Raises: BadRecordings, with every problem.
    """
    problems: dict[str, str] = {}
    try:
        folder = folder.resolve(strict=True)
        files = _read_all(folder, problems)
        problems.update(_missing(folder, required, {*files, *problems}))
    except OSError as error:
        raise BadRecordings([f"{error.filename} {_reason(error)}"]) from None
    if problems:
        raise BadRecordings([f"{name} {reason}" for name, reason in problems.items()])
    if not files:
        raise BadRecordings([f"{folder} has no .wav and no .mp3 file in it"])
    return files


def _read_all(folder: Path, problems: dict[str, str]) -> dict[str, Recording]:
    files: dict[str, Recording] = {}
    room = MOST_BYTES
    for path in _audio_files_below(folder, folder, problems):
        name = path.relative_to(folder).as_posix()
        try:
            files[name] = _read(path)
        except (NotPlayable, OSError) as error:
            problems[name] = _reason(error)
            continue
        room -= len(files[name].data)
        if room < 0 or len(files) > MOST_FILES:
            raise BadRecordings([f"{folder} has more than {MOST_BYTES >> 20} MB of audio, or {MOST_FILES} files"])
    return files


def _audio_files_below(folder: Path, root: Path, problems: dict[str, str]) -> Iterator[Path]:
    """In order. Links that lead out of the root, or to folders, where they could go in a circle, are problems."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        is_audio = path.suffix in MEDIA_TYPES
        if path.is_symlink() and (path.is_dir() or (is_audio and not _leads_into(path, root))):
            problems[path.relative_to(root).as_posix()] = "is a link to a folder, or to no file in this one"
        elif path.is_dir():
            yield from _audio_files_below(path, root, problems)
        elif is_audio and path.is_file():
            yield path


def _leads_into(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # to nothing, or to itself
        return False


def _read(path: Path) -> Recording:
    """Raises: NotPlayable, OSError."""
    if path.stat().st_size > MOST_BYTES_OF_A_FILE:
        raise NotPlayable(f"is larger than {MOST_BYTES_OF_A_FILE // 1_000_000} MB")
    data = path.read_bytes()
    return Recording(data, seconds_of(data, path.suffix), MEDIA_TYPES[path.suffix])


def _reason(error: Exception) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def _missing(folder: Path, required: Collection[str], known: Collection[str]) -> dict[str, str]:
    """What is wrong with each language that is not complete."""
    folders = [one.name for one in sorted(folder.iterdir()) if one.is_dir()]
    problems = {
        name: f"is no name of a language: write {name.replace('_', '-')}"
        for name in folders
        if "_" in name and _LANGUAGE.fullmatch(name.replace("_", "-"))
    }
    for language in filter(_LANGUAGE.fullmatch, folders):
        missing = [name for name in required if f"{language}/{name}.wav" not in known]
        if missing and language not in known:
            lacks = f"is named like a language, but has no .wav for {_compact(missing)}"
            problems[language] = f"{lacks} (names are in lower case)"
    return problems


def _compact(names: Sequence[str]) -> str:
    """Characters that follow each other as ranges: 0-9, c-e, greeting."""
    characters = sorted(name for name in names if len(name) == 1)
    runs = groupby(enumerate(characters), key=lambda numbered: ord(numbered[1]) - numbered[0])
    shown = []
    for _, run in runs:
        found = [character for _, character in run]
        shown += [f"{found[0]}-{found[-1]}"] if len(found) > 2 else found
    return ", ".join([*shown, *(name for name in names if len(name) > 1)])
