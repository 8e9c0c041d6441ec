"""docs/providers.md: what carriers can do is what their clients declare."""

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import httpx

from settings import load_settings
from tests.provider_cases import SMS_CASES, VOICE_CASES, VoiceCase
from tests.rendered_docs import check_part
from voice_provider import Capabilities


class Row(NamedTuple):
    """A line of the table. `reads` are the fields of `Capabilities` that it shows."""

    text: str
    reads: tuple[str, ...]
    shown: Callable[[VoiceCase, Capabilities], str]


def _yes_or_no(text: str, field: str) -> Row:
    return Row(text, (field,), lambda _, can: "yes" if getattr(can, field) else "no")


ROWS = (
    Row("languages", ("languages",), lambda _, can: str(len(can.languages))),
    Row(
        "is told what to say",
        ("fetches_script",),
        lambda _, can: "step by step" if can.fetches_script else "all at once",
    ),
    _yes_or_no("tells of ringing and answer", "reports_progress"),
    _yes_or_no("silence is proof", "silence_is_proof"),
    _yes_or_no("can be asked", "can_be_asked"),
    _yes_or_no("ends a call on request", "hangs_up"),
    _yes_or_no("proves that the code was spoken", "proves_speaking"),
    _yes_or_no("detects machines", "detects_machines"),
    _yes_or_no("tells of a machine without ending the call", "verdict_seconds"),
    _yes_or_no("hides the caller ID", "hides_caller_id"),
    _yes_or_no("keeps a limit of the call's length", "limits_call"),
    _yes_or_no("has a woman's and a man's voice", "chooses_voice"),
    Row("voices by name", ("voices",), lambda _, can: str(len(can.voices))),
    _yes_or_no("plays recordings of ours", "plays_audio"),
    _yes_or_no("asks for keys before the code", "asks_for_keys"),
    _yes_or_no("takes codes that are typed", "takes_codes"),
    _yes_or_no("tells alerts", "tells_alerts"),
    Row("most replays", ("max_replays",), lambda _, can: str(can.max_replays)),
    Row("calls back by", ("callback_methods",), lambda _, can: ", ".join(can.callback_methods)),
    Row("signs its callbacks", (), lambda case, _: "yes" if case.signing else "no"),
    Row(
        "calls per second, unless set",
        (),
        lambda case, _: str(load_settings().of_carrier(case.name, "calls_per_second")),
    ),
    Row("text messages", (), lambda case, _: "yes" if case.name in SMS_CASES else "no"),
)


def test_the_table_of_abilities_on_the_page_is_what_the_clients_declare() -> None:
    declared = {
        case.name: (case, case.client(lambda _: httpx.Response(500)).capabilities) for case in VOICE_CASES.values()
    }
    lines = [f"| | {' | '.join(declared)} |", "|---" * (len(declared) + 1) + "|"]
    for row in ROWS:
        lines.append(f"| {row.text} | {' | '.join(row.shown(*known) for known in declared.values())} |")
    check_part("docs/providers.md", "capabilities", "\n".join(lines))


def test_every_ability_has_its_line() -> None:
    shown = [field for row in ROWS for field in row.reads]
    assert sorted(shown) == sorted(field.name for field in fields(Capabilities))
