"""What a backend asks for, before anything is decided."""

from dataclasses import dataclass, field

from verification import Mode


@dataclass(frozen=True, slots=True)
class SendOrder:
    """One request for a code. `phone` is E.164; `code` is the backend's own, if it brought one.

    An alert brings its template and values in the place of a code, see `alert_templates.sealed_form`. `prompts`
    names a set of prompts, `voice` a voice. `is_redial`: nobody asked for it, so the code that is running is
    sent, also where resends have a new one.
    """

    client: str
    phone: str = field(repr=False)
    channel: str
    language: str | None
    code: str | None = field(repr=False)
    code_length: int
    ttl_seconds: int
    max_replays: int
    hide_caller_id: bool
    provider: str | None
    reference: str | None
    mode: Mode = Mode.SPEAK
    prompts: str = ""
    voice: str = ""
    auto_replay: bool = False
    keys_first: int = 0
    template: str = ""
    is_redial: bool = False


class UnsupportedOption(Exception):
    """A request asks for something that this service, or the carrier in question, cannot do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message
