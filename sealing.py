"""What OTP_SECRET protects: codes at rest, the tokens of calls and messages in callback URLs, and further keys."""

import hmac
import re
import secrets
import string
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verification import VERIFICATION_ID, CallRef, MessageRef

_NONCE_BYTES = PAGE_NONCE_BYTES = 12
_NUMBERS_AT_HAND = 16_384
_TOKEN = re.compile(r"([0-9a-f]{32})([0-9a-f]{4})([0-9a-f]{32})")

# A message token: the encrypted id, the message's number and a signature.
_BLOCK_BYTES, _NUMBER_BYTES, _SHORT_MAC_BYTES = 16, 2, 5
_MESSAGE_TOKEN_BYTES = _BLOCK_BYTES + _NUMBER_BYTES + _SHORT_MAC_BYTES
_MESSAGE_TOKEN_LENGTH = 31  # in base 62
_MESSAGE_TOKEN = re.compile(rf"[0-9A-Za-z]{{{_MESSAGE_TOKEN_LENGTH}}}")
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

# A verification id: zeros that tell whether it was decrypted with the right key, the number, and random bytes.
_ID_CHECK_BYTES, _PHONE_BYTES, _ID_RANDOM_BYTES = 4, 7, 5
_DECOY_ID = "vrf_" + "0" * 32


class Unsealable(Exception):
    """A sealed code was not made with any current OTP_SECRET, or was altered."""


class Sealer:
    """Seals codes (AES-256-GCM) and signs call tokens (HMAC-SHA256, 128 bits kept).

    Takes one or two secrets: the first makes new seals and tokens, each one opens old ones, so that a secret
    can be replaced while calls are under way.
    """

    def __init__(self, secrets_in_use: Sequence[str]) -> None:
        self._ciphers = [AESGCM(derive_key(secret, b"code")) for secret in secrets_in_use]
        self._decoy = self.seal("000000", _DECOY_ID)
        id_ciphers = [_block_cipher(secret, b"verification id") for secret in secrets_in_use]
        # One block each, and no state between them, so that one context serves for all.
        self._id_encryptors = [cipher.encryptor() for cipher in id_ciphers]
        self._id_decryptors = [cipher.decryptor() for cipher in id_ciphers]
        self._message_ciphers = [_block_cipher(secret, b"message") for secret in secrets_in_use]
        self._message_macs = [
            hmac.new(derive_key(secret, b"message token"), digestmod=sha256) for secret in secrets_in_use
        ]
        self._keys_key = derive_key(min(secrets_in_use), b"keys")  # the same one, in whatever order they are given
        self._attempt_key = derive_key(min(secrets_in_use), b"attempt")
        self._token_macs = [hmac.new(derive_key(secret, b"token"), digestmod=sha256) for secret in secrets_in_use]

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

    def draw_id(self, phone: str) -> str:
        """A new verification id. It holds the number, encrypted, so that it leads to it without an index.

        To whoever lacks OTP_SECRET it is 128 random bits: knowing an id proves having been told it.
        """
        block = bytes(_ID_CHECK_BYTES) + int(phone[1:]).to_bytes(_PHONE_BYTES, "big")
        return f"vrf_{self._id_encryptors[0].update(block + secrets.token_bytes(_ID_RANDOM_BYTES)).hex()}"

    def phone_of(self, verification_id: str) -> str | None:
        """The number, in E.164, that an id was drawn for; None for anything that `draw_id` did not make."""
        if not VERIFICATION_ID.fullmatch(verification_id):
            return None
        for decryptor in self._id_decryptors:
            block = decryptor.update(bytes.fromhex(verification_id[4:]))
            if block.startswith(bytes(_ID_CHECK_BYTES)):
                number = int.from_bytes(block[_ID_CHECK_BYTES : _ID_CHECK_BYTES + _PHONE_BYTES], "big")
                return f"+{number}"
        return None

    def matches(self, sealed: bytes, verification_id: str, candidate: str) -> bool:
        """Whether the candidate is the sealed code, in time that does not depend on where they differ."""
        return hmac.compare_digest(self.unseal(sealed, verification_id).encode(), candidate.encode())

    def mark_attempt(self, attempt: str, candidate: str) -> bytes:
        """Tells one attempt from another, and nothing of the code."""
        return blake2b(f"{attempt}/{candidate}".encode(), digest_size=8, key=self._attempt_key).digest()

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

    def draw_keys(self, ref: CallRef, attempt: int, length: int) -> str:
        """The keys that a callee is to press before a code is told: others at each attempt, ever the same.

        No key comes twice, so that a machine that plays one tone for ever is never right.
        """
        text = f"{ref.verification_id}/{ref.number}/{attempt}"
        number = int.from_bytes(hmac.digest(self._keys_key, text.encode(), sha256)[:8], "big")
        left, drawn = list(string.digits), ""
        for _ in range(length):
            number, place = divmod(number, len(left))
            drawn += left.pop(place)
        return drawn

    def sign_message_token(self, ref: MessageRef) -> str:
        """The token that authorises reports on one text message: 31 letters and digits.

        Some carriers take no more than 32 along with a message, too few for a call token. So the id is encrypted,
        which only a holder of OTP_SECRET can do, and 40 bits of a signature bind the message's number to it.
        """
        encryptor = self._message_ciphers[0].encryptor()
        block = encryptor.update(bytes.fromhex(ref.verification_id[4:])) + encryptor.finalize()
        signed = block + ref.number.to_bytes(_NUMBER_BYTES, "big")
        return _base62(signed + _short_mac(self._message_macs[0], signed))

    def read_message_token(self, token: str) -> MessageRef | None:
        """The text message that a token stands for; None for anything that `sign_message_token` did not make."""
        raw = _from_base62(token)
        if raw is None:
            return None
        signed, mac = raw[:-_SHORT_MAC_BYTES], raw[-_SHORT_MAC_BYTES:]
        for cipher, key in zip(self._message_ciphers, self._message_macs, strict=True):
            if hmac.compare_digest(_short_mac(key, signed), mac):
                decryptor = cipher.decryptor()
                raw_id = decryptor.update(signed[:_BLOCK_BYTES]) + decryptor.finalize()
                return MessageRef(f"vrf_{raw_id.hex()}", int.from_bytes(signed[_BLOCK_BYTES:], "big"))
        return None


class PageSealer:
    """Seals all that a store keeps of a number (AES-256-GCM), and names it without the number.

    A key per number, as one key must not seal without end.
    """

    def __init__(self, secrets_in_use: Sequence[str]) -> None:
        self.is_rotating = len(secrets_in_use) > 1
        self._keyers = [hmac.new(derive_key(secret, b"page"), digestmod=sha256) for secret in secrets_in_use]
        self._ciphers = lru_cache(maxsize=_NUMBERS_AT_HAND)(self._make_ciphers)

    def _make_ciphers(self, line: str) -> list[AESGCM]:
        return [AESGCM(_digest(keyer, line)) for keyer in self._keyers]

    def seal(self, line: str, page: bytes) -> bytes:
        """Nonce, then ciphertext with tag."""
        nonce = secrets.token_bytes(PAGE_NONCE_BYTES)
        return nonce + self._ciphers(line)[0].encrypt(nonce, page, None)

    def unseal(self, line: str, sealed: bytes) -> bytes:
        """Raises: Unsealable."""
        nonce, ciphertext = sealed[:PAGE_NONCE_BYTES], sealed[PAGE_NONCE_BYTES:]
        for cipher in self._ciphers(line):
            try:
                return cipher.decrypt(nonce, ciphertext, None)
            except InvalidTag:
                continue
        raise Unsealable("a page was sealed with another OTP_SECRET, or altered")


def _digest(mac: hmac.HMAC, text: str) -> bytes:
    keyed = mac.copy()  # a copy of a keyed HMAC skips hashing the key again
    keyed.update(text.encode())
    return keyed.digest()


def _block_cipher(secret: str, purpose: bytes) -> "Cipher[modes.ECB]":
    # One block that is never the same twice, and no more: what is encrypted tells nothing of what is in it.
    return Cipher(algorithms.AES256(derive_key(secret, purpose)), modes.ECB())  # noqa: S305 - see above


def _short_mac(mac: hmac.HMAC, signed: bytes) -> bytes:
    keyed = mac.copy()
    keyed.update(signed)
    return keyed.digest()[:_SHORT_MAC_BYTES]


def _base62(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    for _ in range(_MESSAGE_TOKEN_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def _from_base62(token: str) -> bytes | None:
    """The bytes of a message token; None for what has not its form."""
    if not _MESSAGE_TOKEN.fullmatch(token):
        return None
    number = 0
    for character in token:
        number = number * 62 + _BASE62.index(character)
    return number.to_bytes(_MESSAGE_TOKEN_BYTES, "big") if number < 256**_MESSAGE_TOKEN_BYTES else None


def derive_key(secret: str, purpose: bytes) -> bytes:
    """A key for one purpose, which tells nothing of those for others."""
    return hmac.digest(secret.encode(), purpose, sha256)


def _sign(mac: hmac.HMAC, text: str) -> str:
    return _digest(mac, text).hex()[:32]
