"""Who answers at which number. Numbers are of the range that is reserved for fiction, +1 415 555 0100 to 0199."""

from dataclasses import dataclass, replace
from enum import StrEnum


class Reaction(StrEnum):
    """What becomes of a ringing phone."""

    ANSWER = "answer"
    BUSY = "busy"
    REJECT = "reject"
    IGNORE = "ignore"
    UNREACHABLE = "unreachable"


class ApiTrouble(StrEnum):
    """What becomes of the request to call a number, before any phone rings."""

    NONE = "none"
    DOWN = "down"
    FIRST_DOWN = "first carrier down"  # only with the carrier that the service asks first
    SLOW = "slow"
    THROTTLED = "throttled"
    OUT_OF_CREDIT = "out of credit"


@dataclass(frozen=True, slots=True)
class ScriptedCallee:
    """A callee that always does the same.

    At each wait for keys the next one of `keys` is pressed, or typed where it is several; then none. `tones` are
    what a machine plays at each wait, over and over, without listening.
    """

    description: str
    reaction: Reaction = Reaction.ANSWER
    ring_seconds: float = 4
    keys: tuple[str, ...] = ()
    presses_what_is_asked: bool = False
    tones: tuple[str, ...] = ()
    hangs_up_after_seconds: float | None = None
    is_machine: bool = False
    api_trouble: ApiTrouble = ApiTrouble.NONE
    loses_hangup_callback: bool = False
    doubles_callbacks: bool = False


_LISTENER = ScriptedCallee("answers, listens to the end, presses nothing")
_VOICEMAIL = ScriptedCallee("is a voicemail", is_machine=True, ring_seconds=20)
# What the app of one callee shows, for requests that bring it.
SHOWN_CODE = "246810"

SCRIPTED_CALLEES: dict[str, ScriptedCallee] = {
    "+14155550101": _LISTENER,
    "+14155550102": replace(_LISTENER, description="presses 1 once", keys=("1",)),
    "+14155550103": replace(_LISTENER, description="presses 1 three times", keys=("1", "1", "1")),
    "+14155550104": replace(_LISTENER, description="presses 9, then nothing", keys=("9",)),
    "+14155550105": ScriptedCallee("is busy", Reaction.BUSY, ring_seconds=1),
    "+14155550106": ScriptedCallee("does not answer", Reaction.IGNORE),
    "+14155550107": ScriptedCallee("rejects the call", Reaction.REJECT, ring_seconds=3),
    "+14155550108": replace(_LISTENER, description="hangs up after 3 seconds", hangs_up_after_seconds=3),
    "+14155550109": _VOICEMAIL,
    "+14155550110": replace(_LISTENER, description="carrier down: answers 503", api_trouble=ApiTrouble.DOWN),
    "+14155550111": replace(
        _LISTENER, description="carrier slow: calls, but answers the request late", api_trouble=ApiTrouble.SLOW
    ),
    "+14155550112": replace(_LISTENER, description="carrier throttles: 429", api_trouble=ApiTrouble.THROTTLED),
    "+14155550113": replace(
        _LISTENER, description="account out of credit: 402", api_trouble=ApiTrouble.OUT_OF_CREDIT
    ),
    "+14155550114": ScriptedCallee("is not allocated", Reaction.UNREACHABLE, ring_seconds=0),
    "+14155550115": replace(
        _LISTENER, description="hangs up during the second reading", hangs_up_after_seconds=25
    ),
    "+14155550116": replace(_LISTENER, description="hangup callback is lost", loses_hangup_callback=True),
    "+14155550117": replace(
        _LISTENER,
        description="presses 1 three times, and every callback comes twice",
        keys=("1", "1", "1"),
        doubles_callbacks=True,
    ),
    "+14155550118": replace(
        _LISTENER,
        description="the first carrier that is asked is down, the next one calls",
        api_trouble=ApiTrouble.FIRST_DOWN,
    ),
    "+14155550119": replace(
        _LISTENER, description="presses the keys that are asked for", presses_what_is_asked=True
    ),
    "+14155550120": replace(
        _LISTENER, description=f"types {SHOWN_CODE} when asked for keys, twice", keys=(SHOWN_CODE, SHOWN_CODE)
    ),
    "+14155550121": replace(_VOICEMAIL, description="is a voicemail that beeps", tones=("beep",)),
    "+14155550122": replace(
        _VOICEMAIL, description="is a voicemail whose greeting plays the tone of key 1", tones=("1",)
    ),
    "+14155550123": replace(
        _VOICEMAIL,
        description="is a voicemail whose greeting plays the tones of keys 0 to 9",
        tones=tuple("0123456789"),
    ),
}
