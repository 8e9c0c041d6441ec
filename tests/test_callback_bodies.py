"""What is shown of a carrier's words."""

import pytest

from callback_bodies import NOT_SHOWN, shown_word
from hangup_causes import ended_event
from tests.conftest import keep_secret

NUMBER = keep_secret("14155550142")


@pytest.mark.parametrize("word", ["USER_BUSY", "no-answer", "Busy Line", "3010", "00000", ""])
def test_a_word_or_a_short_code_is_shown(word: str) -> None:
    assert shown_word(word) == word


@pytest.mark.parametrize(
    "text", [NUMBER, f"call to {NUMBER}", "482913", "busy 4829", "a\nb", "é", "x" * 65, "٣٠١٠"]
)
def test_what_could_be_a_number_or_a_code_is_not_shown(text: str) -> None:
    assert shown_word(text) == NOT_SHOWN


def test_a_cause_that_holds_a_number_is_neither_kept_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"HangupCause": f"No route to {NUMBER}", "Code": NUMBER}
    event = ended_event("Vobiz", "id", fields, code_field="Code", talk_field="Duration")
    assert event.hangup_cause == f"{NOT_SHOWN} {NOT_SHOWN}"
    assert "unknown hangup cause code: (not shown)" in caplog.text
    assert NUMBER not in caplog.text
