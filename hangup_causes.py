"""Hangup causes of the carriers that share one table of codes, Vobiz and Plivo, and what they mean here."""

import logging
import re
import sys
from collections.abc import Mapping

from callback_bodies import shown_word
from voice_provider import CallEvent, CallState, EndReason

logger = logging.getLogger(__name__)

# Documented: concepts/hangup-causes of Vobiz, troubleshooting/hangup-causes of Plivo. None is an ordinary end:
# what was spoken then decides.
END_REASONS: dict[str, EndReason | None] = {
    "1000": EndReason.CANCELLED,
    "1010": EndReason.FAILED,
    "1020": EndReason.FAILED,
    **dict.fromkeys(("2000", "2010", "2020", "2030", "2040", "2050", "2060", "2070"), EndReason.FAILED),
    "3000": EndReason.NO_ANSWER,
    "3010": EndReason.BUSY,
    "3020": EndReason.REJECTED,
    **dict.fromkeys(("3030", "3040", "3050", "3070", "3080", "3090"), EndReason.FAILED),
    "3100": EndReason.BUSY,
    "3110": EndReason.REJECTED,
    **dict.fromkeys(("3120", "3140"), EndReason.FAILED),
    "3130": EndReason.REJECTED,
    "4000": None,
    "4010": None,
    "4020": None,
    "4030": None,
    **dict.fromkeys(("5000", "5010", "5020", "5030"), EndReason.FAILED),
    "6000": None,
    "6010": EndReason.NO_ANSWER,
    "6020": EndReason.FAILED,
    **dict.fromkeys(("7011", "7012", "7013", "7014"), EndReason.FAILED),
    **dict.fromkeys(("7022", "7023", "7024", "7032", "7033", "7034"), EndReason.FAILED),
    **dict.fromkeys(("8011", "8012", "8013", "8014"), EndReason.FAILED),
    "9000": EndReason.FAILED,
    "9100": EndReason.VOICEMAIL,
    "9110": EndReason.NO_KEYPRESS,
}

# Documented: the words of `CallStatus`; used where a hangup callback brings no cause code.
END_REASONS_BY_STATUS: dict[str, EndReason | None] = {
    "completed": None,
    "busy": EndReason.BUSY,
    "failed": EndReason.FAILED,
    "timeout": EndReason.NO_ANSWER,
    "no-answer": EndReason.NO_ANSWER,
}


def ended_event(
    carrier: str, call_id: str, fields: Mapping[str, str], *, code_field: str, talk_field: str
) -> CallEvent:
    """The end of a call, out of a hangup callback or a call record; `talk_field` counts whole seconds."""
    code = fields.get(code_field, "")
    status = fields.get("CallStatus", "")
    if code in END_REASONS:
        end_reason = END_REASONS[code]
    elif not code and status in END_REASONS_BY_STATUS:
        end_reason = END_REASONS_BY_STATUS[status]
    else:
        logger.warning("%s reported an unknown hangup cause code: %s", carrier, shown_word(code))
        end_reason = EndReason.UNKNOWN
    talk = fields.get(talk_field, "")
    return CallEvent(
        call_id,
        CallState.COMPLETED,
        end_reason,
        hangup_cause=_hangup_cause(fields, code),
        talk_seconds=int(talk) if re.fullmatch("[0-9]{1,6}", talk) else None,
    )


def _hangup_cause(fields: Mapping[str, str], code: str) -> str:
    """The carrier's own words, such as `USER_BUSY 3010`."""
    names = ("HangupCause", "hangup_cause", "HangupCauseName", "hangup_cause_name")
    name = next(filter(None, map(fields.get, names)), "")
    cause = f"{shown_word(name)} {shown_word(code)}".strip()
    return sys.intern(cause)  # a handful of causes, kept for many calls
