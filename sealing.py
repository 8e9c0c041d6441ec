"""What OTP_SECRET protects: codes at rest and the call tokens in callback URLs."""

import hmac
import re
import secrets
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verification import CallRef

_NONCE_BYTES = 12
_TOKEN = re.compile(r"([0-9a-f]{32})([0-9a-f]{4})([0-9a-f]{32})")


_MESSAGE_TOKEN = re.compile(r"[0-9a-f]{32}")
_DECOY_ID = "vrf_" + "0" * 32


class Unsealable(Exception):
    """A sealed code was not made with any current OTP_SECRET, or was altered."""


class Sealer:
    """Seals codes (AES-256-GCM) and signs call tokens (HMAC-SHA256, 128 bits kept).

    Takes one or two secrets: the first makes new seals and tokens, each one opens old ones, so that a secret
    can be replaced while calls are under way.
    """

    def __init__(self, secrets_in_use: Sequence[str]) -> None:
        self._ciphers = [AESGCM(_derive(secret, b"code")) for secret in secrets_in_use]
        self._decoy = self.seal("000000", _DECOY_ID)
        self._message_ciphers = [_block_cipher(secret) for secret in secrets_in_use]
        self._token_macs = [hmac.new(_derive(secret, b"token"), digestmod=sha256) for secret in secrets_in_use]

    def seal(self, code: str, verification_id: str) -> bytes:
        """Encrypt a code for one verification: nonce, then ciphertext with tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, code.encode(), verification_id.encode())

    def unseal(self, sealed: bytes, verification_id: str) -> str:
        """The code inside. Raises: Unsealable."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, ciphertext, verification_id.encode()).decode()
            except InvalidTag:
                continue
        raise Unsealable("a stored code was sealed with another OTP_SECRET")

    def matches(self, sealed: bytes, verification_id: str, candidate: str) -> bool:
        """Whether the candidate is the sealed code, in time that does not depend on where they differ."""
        return hmac.compare_digest(self.unseal(sealed, verification_id).encode(), candidate.encode())

    def pretend_to_match(self, candidate: str) -> None:
        """Take as long as `matches` does, for a code that does not exist."""
        self.matches(self._decoy, _DECOY_ID, candidate)

    def sign_token(self, ref: CallRef) -> str:
        """The token that authorises a carrier's callbacks for one call: hex of id, call number and signature.

        It sits in the path of the callback URL, the only part that carriers sign, and needs no table: whoever
        holds OTP_SECRET can read it back.
        """
        signed = f"{ref.verification_id[4:]}{ref.number:04x}"
        return signed + _sign(self._token_macs[0], signed)

    def read_token(self, token: str) -> CallRef | None:
        """The call that a token stands for; None for anything that `sign_token` did not make."""
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        raw_id, number, signature = parts.groups()
        for mac in self._token_macs:
            if hmac.compare_digest(_sign(mac, raw_id + number), signature):
                return CallRef(f"vrf_{raw_id}", int(number, 16))
        return None

    def sign_message_token(self, verification_id: str) -> str:
        """The token that authorises reports on a verification's text message: its id, encrypted.

        32 hexadecimal digits are all that some carriers take along with a message.
        """
        encryptor = self._message_ciphers[0].encryptor()
        return (encryptor.update(bytes.fromhex(verification_id[4:])) + encryptor.finalize()).hex()

    def read_message_tokens(self, token: str) -> list[str]:
        """The ids that a token may stand for, one for each secret in use; none for what is no token."""
        if not _MESSAGE_TOKEN.fullmatch(token):
            return []
        found = []
        for cipher in self._message_ciphers:
            decryptor = cipher.decryptor()
            found.append(f"vrf_{(decryptor.update(bytes.fromhex(token)) + decryptor.finalize()).hex()}")
        return found


def _block_cipher(secret: str) -> "Cipher[modes.ECB]":
    # One block of 128 random bits, never more: each id has one token, which tells nothing of it.
    return Cipher(algorithms.AES256(_derive(secret, b"message")), modes.ECB())  # noqa: S305


def _derive(secret: str, purpose: bytes) -> bytes:
    return hmac.digest(secret.encode(), purpose, sha256)


def _sign(mac: hmac.HMAC, text: str) -> str:
    keyed = mac.copy()  # a copy of a keyed HMAC skips hashing the key again
    keyed.update(text.encode())
    return keyed.hexdigest()[:32]
