"""All that calls are spoken with, opened at the start: texts, prompt sets, alert templates, recordings, voices."""

import math
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import prompts_file
import setting_values
from call_script import Manner, Pacing
from clock import Clock
from language_choice import LanguageChoice
from languages import SpokenTexts, load_spoken_texts
from order_rules import OrderRules
from prompt_sets import PromptKind, known_prompts
from recorded_audio import BadRecordings, Recordings, load_recordings
from script_writer import RECORDED_PROMPTS, ScriptWriter
from settings import BadSettings, Settings
from verification import Mode
from voice_provider import USUAL_VOICES, VoiceProvider

SPOKEN_TEXTS = Path(__file__).parent / "spoken_texts"
# What each language among the recordings must have: the characters of codes, and the prompts of a call.
REQUIRED_RECORDINGS = (*string.digits, *string.ascii_lowercase, *RECORDED_PROMPTS)


class Speech(NamedTuple):
    languages: LanguageChoice
    writer: ScriptWriter
    rules: OrderRules
    recordings: Recordings | None


def open_speech(
    settings: Settings, otp_secrets: Sequence[str], clock: Clock, clients: Sequence[VoiceProvider]
) -> Speech:
    """Raises: BadSettings, with a line for each thing that is wrong with the files."""
    texts = _load_texts(SPOKEN_TEXTS)
    languages = LanguageChoice(texts, settings.default_language)
    recordings = _open_recordings(settings, otp_secrets, clock)
    configured = prompts_file.load(
        settings.prompts_file,
        known_prompts({language: vars(fields) for language, fields in texts.items()}),
        settings.app_name,
        setting_values.client_prompts(settings.client_prompts),
        recordings.has if recordings is not None else None,
    )
    writer = ScriptWriter(
        texts, settings.app_name, _pacing(settings), configured.sets, recordings, configured.alerts
    )
    rules = OrderRules(
        ttl_seconds=settings.code_ttl_seconds,
        allow_short_codes=settings.allow_short_codes,
        require_keypress=settings.require_keypress,
        keypress_digits=settings.keypress_digits,
        auto_replay=settings.auto_replay,
        prompt_sets=configured.sets,
        voices=_voices(clients),
        templates=configured.alerts,
    )
    speech = Speech(languages, writer, rules, recordings)
    _check(settings, speech, clients)
    return speech


@cache
def _load_texts(folder: Path) -> Mapping[str, SpokenTexts]:
    """The files are part of the program: they are read once."""
    try:
        return load_spoken_texts(folder)
    except ValueError as error:
        raise BadSettings([f"spoken_texts/{problem}" for problem in str(error).splitlines()]) from None


def _pacing(settings: Settings) -> Pacing:
    return Pacing(
        lead_in_seconds=settings.lead_in_seconds,
        digit_pause_seconds=settings.digit_pause_seconds,
        reading_pause_seconds=settings.reading_pause_seconds,
        readings=settings.readings,
        speech_rate=settings.speech_rate,
    )


def _open_recordings(settings: Settings, otp_secrets: Sequence[str], clock: Clock) -> Recordings | None:
    if settings.audio_dir is None:
        return None
    try:
        files = load_recordings(settings.audio_dir, REQUIRED_RECORDINGS)
    except BadRecordings as error:
        raise BadSettings([f"AUDIO_DIR: {problem}" for problem in error.problems]) from None
    return Recordings(files, otp_secrets, settings.base_url, clock)


def _voices(clients: Sequence[VoiceProvider]) -> tuple[str, ...]:
    able = [client.capabilities for client in clients if client.capabilities.chooses_voice]
    named = (voice for capabilities in able for voice in capabilities.voices)
    return tuple(dict.fromkeys((*USUAL_VOICES, *named))) if able else ()


def _voiceless(speech: Speech, clients: Sequence[VoiceProvider]) -> Iterator[str]:
    """Prompts to be spoken in a language that is only played."""
    for client in clients:
        can = client.capabilities
        played = speech.writer.recorded_languages if can.plays_audio else ()
        only_played = [tag for tag in played if not speech.languages.match(tag, can.languages)]
        for name, tag, key in product(speech.rules.prompt_sets.names, only_played, RECORDED_PROMPTS):
            own = speech.rules.prompt_sets.named(name).prompt(tag, key)
            if own is not None and own.kind is not PromptKind.AUDIO:
                lacks = f"but {client.name} has no voice for {tag}: use a file"
                yield f"PROMPTS_FILE: prompts.{name} has a text for {key}, {lacks}"


def _too_long(settings: Settings, speech: Speech, tags: Collection[str]) -> Iterator[str]:
    """Calls that the carrier would cut off, although they have no replays."""
    limit, seconds_of = settings.call_time_limit_seconds, speech.writer.whole_call_seconds
    keys = settings.keypress_digits if settings.require_keypress else 0
    for prompts in ("", *speech.rules.prompt_sets.names):
        manners = [Manner(tag, prompts, max_replays=0, keys_first=keys) for tag in tags]
        lengths = [(seconds_of(Mode.SPEAK, 6, manner), manner.language) for manner in manners]
        seconds, tag = max(lengths, default=(0, ""))
        if seconds > limit:
            words = f" in the words of prompts.{prompts}" if prompts else ""
            yield (
                f"CALL_TIME_LIMIT_SECONDS is {limit}, but a code in {tag}{words} takes up to "
                f"{math.ceil(seconds)}: raise it, or see READINGS, the pauses and REQUIRE_KEYPRESS"
            )
    for name in speech.rules.templates:
        spoken = speech.writer.languages_of_alert(name, tags)
        lengths = [(seconds_of(Mode.ALERT, 0, Manner(tag, max_replays=0, template=name)), tag) for tag in spoken]
        seconds, tag = max(lengths, default=(0, ""))
        if seconds > limit:
            yield (
                f"PROMPTS_FILE: alerts.{name} takes up to {math.ceil(seconds)} seconds in {tag}, "
                f"and CALL_TIME_LIMIT_SECONDS is {limit}"
            )


def _check(settings: Settings, speech: Speech, clients: Sequence[VoiceProvider]) -> None:
    """What is right by itself, but not with these carriers. Raises: BadSettings."""
    problems = []
    known_voices = dict.fromkeys((*USUAL_VOICES, *speech.rules.voices))
    prompt_sets = speech.rules.prompt_sets
    recorded = speech.writer.recorded_languages
    spoken = {
        client.name: (*client.capabilities.languages, *(recorded if client.capabilities.plays_audio else ()))
        for client in clients
    }
    tag = settings.default_language
    if not any(speech.languages.match(tag, tags) for tags in spoken.values()):
        known = ", ".join(dict.fromkeys(tag for tags in spoken.values() for tag in tags))
        problems.append(f"DEFAULT_LANGUAGE cannot be spoken by {', '.join(spoken)}: use one of {known}")
    known_tags = {tag for tags in spoken.values() for tag in tags if speech.languages.knows(tag)}
    strange = (tag for tag in recorded if not speech.languages.knows(tag))
    problems += [f"AUDIO_DIR: {tag} is no language that there are texts in" for tag in strange]
    problems += _too_long(settings, speech, known_tags)
    problems += _voiceless(speech, clients)
    problems += [
        f"PROMPTS_FILE: prompts.{name} has the voice {voice}, which no carrier has: use {', '.join(known_voices)}"
        for name, voice in prompt_sets.voices()
        if voice not in known_voices
    ]
    if settings.require_keypress and not any(client.capabilities.asks_for_keys for client in clients):
        problems.append(f"REQUIRE_KEYPRESS is set, but {', '.join(spoken)} cannot ask for keys before the code")
    if problems:
        raise BadSettings(problems)
