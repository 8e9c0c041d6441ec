"""The hangup cause table that Vobiz and Plivo share, by the endings of our calls.

Documented: https://docs.vobiz.ai (concepts/hangup-causes) and
https://www.plivo.com/docs/voice/troubleshooting/hangup-causes.
Seen, in public captures of Vobiz: texts and sources of the first rows.
"""

from typing import NamedTuple

from simulator.call import Ending


class Cause(NamedTuple):
    """A row of the table, and who ended the call."""

    code: int
    name: str
    text: str
    source: str


def hangup_causes(carrier: str) -> dict[str, Cause]:
    """The table of a carrier, which is itself the source of some of its causes."""
    return {
        Ending.CALLEE: Cause(4000, "Normal Hangup", "NORMAL_CLEARING", "Callee"),
        Ending.END_OF_SCRIPT: Cause(4010, "End Of XML Instructions", "NORMAL_CLEARING", carrier),
        Ending.BUSY: Cause(3010, "Busy Line", "USER_BUSY", "Carrier"),
        Ending.REJECTED: Cause(3020, "Rejected", "CALL_REJECTED", "Carrier"),
        Ending.UNALLOCATED: Cause(3050, "Unallocated number", "UNALLOCATED_NUMBER", "Carrier"),
        Ending.UNKNOWN_CALLER_ID: Cause(3030, "Unknown Caller ID", "CALL_REJECTED", "Carrier"),
        Ending.NO_ANSWER: Cause(6010, "Ring Timeout Reached", "NO_ANSWER", carrier),
        Ending.TIME_LIMIT: Cause(6000, "Scheduled Hangup", "ALLOTTED_TIMEOUT", carrier),
        Ending.MACHINE: Cause(9100, "Machine Detected", "NORMAL_CLEARING", carrier),
        Ending.API_BEFORE_ANSWER: Cause(1000, "Canceled", "ORIGINATOR_CANCEL", "API Request"),
        Ending.API_AFTER_ANSWER: Cause(4000, "Normal Hangup", "NORMAL_CLEARING", "API Request"),
        "answer_xml": Cause(4000, "Normal Hangup", "NORMAL_CLEARING", "Answer XML"),
        "answer_unreachable": Cause(7011, "Error Reaching Answer URL", "", "Error"),
        "action_unreachable": Cause(7012, "Error Reaching Action URL", "", "Error"),
        "redirect_unreachable": Cause(7014, "Error Reaching Redirect URL", "", "Error"),
        "answer_invalid": Cause(8011, "Invalid Answer XML", "", "Error"),
        "action_invalid": Cause(8012, "Invalid Action XML", "", "Error"),
        "redirect_invalid": Cause(8014, "Invalid Redirect XML", "", "Error"),
    }
