"""All that calls are spoken with, opened at the start: texts, prompt sets, alert templates, recordings, voices."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import prompts_file
import setting_values
from call_script import Manner, Pacing
from clock import Clock
from language_choice import LanguageChoice
from languages import SpokenTexts, load_spoken_texts
from order_rules import USUAL_VOICES, OrderRules
from prompt_sets import known_prompts
from recorded_audio import BadRecordings, Recordings, load_recordings
from script_writer import RECORDED_PROMPTS, ScriptWriter
from settings import BadSettings, Settings
from verification import Mode
from voice_provider import VoiceProvider

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
    texts = _load_texts()
    languages = LanguageChoice(texts, settings.default_language)
    recordings = _open_recordings(settings, otp_secrets, clock)
    configured = prompts_file.load(
        settings.prompts_file,
        known_prompts({language: asdict(fields) for language, fields in texts.items()}),
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


def _load_texts() -> Mapping[str, SpokenTexts]:
    try:
        return load_spoken_texts(SPOKEN_TEXTS)
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


def _shortest_call_seconds(writer: ScriptWriter, language: str) -> float:
    return writer.whole_call_seconds(Mode.SPEAK, 6, Manner(language, max_replays=0))


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
    elif _shortest_call_seconds(speech.writer, tag) > settings.call_time_limit_seconds:
        problems.append("CALL_TIME_LIMIT_SECONDS is too short for a code that is read as READINGS and pauses say")
    problems += [
        f"PROMPTS_FILE: prompts.{name} has the voice {voice}, which no carrier has: use {', '.join(known_voices)}"
        for name, voice in prompt_sets.voices()
        if voice not in known_voices
    ]
    if settings.require_keypress and not any(client.capabilities.asks_for_keys for client in clients):
        problems.append(f"REQUIRE_KEYPRESS is set, but {', '.join(spoken)} cannot ask for keys before the code")
    if problems:
        raise BadSettings(problems)
