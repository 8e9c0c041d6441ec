"""Where carriers reach us: the callback URLs of a call, with its token in the path, and back."""

from sealing import Sealer
from verification import CallRef, MessageRef
from voice_provider import CallUrls


class CallLinks:
    """Makes the URLs that carriers are told. Their hosts come from the settings, never from a request."""

    def __init__(self, sealer: Sealer, public_url: str, fallback_public_url: str) -> None:
        self._sealer = sealer
        self._public_url = public_url
        self._fallback_public_url = fallback_public_url

    def urls(self, ref: CallRef, reading: int, key_try: int | None = None) -> CallUrls:
        """The URLs of one call, in which `reading` was the last reading of the code.

        `n` numbers the readings, and `k` the waits for keys that have to be pressed, so that a callback which
        comes twice, or late, is known for what it is.
        """
        place = f"n={reading}" if key_try is None else f"k={key_try}"
        token = self._sealer.sign_token(ref)
        base = self._public_url
        return CallUrls(
            answer=f"{base}/answer/{token}?n={reading + 1}",
            fallback=f"{self._fallback_public_url}/answer/{token}?n={reading + 1}",
            choice=f"{base}/otp-choice/{token}?{place}",
            hangup=f"{base}/hangup/{token}",
            ring=f"{base}/ring/{token}",
            events=f"{base}/events/{token}",
        )

    def read_token(self, token: str) -> CallRef | None:
        """The call that a token stands for; None for anything that is no token of ours."""
        return self._sealer.read_token(token)

    def report_url(self, ref: MessageRef) -> str:
        """Where a carrier reports what became of a text message."""
        return f"{self._public_url}/message/{self.message_token(ref)}"

    def message_token(self, ref: MessageRef) -> str:
        return self._sealer.sign_message_token(ref)

    def read_message_token(self, token: str) -> MessageRef | None:
        """The text message that a token stands for; None for anything that is no token of ours."""
        return self._sealer.read_message_token(token)

    def public_urls_of(self, path: str) -> tuple[str, ...]:
        """The URLs under which a carrier may know one of our routes; what its signatures are made over."""
        return (self._public_url + path, self._fallback_public_url + path)
