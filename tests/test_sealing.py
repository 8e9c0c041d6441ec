"""Codes are uniform, sealed and bound to their verification; tokens cannot be guessed, cut or altered."""

import re
import secrets
from collections import Counter

import pytest

from sealing import Sealer, Unsealable
from verification import VERIFICATION_ID, CallRef, MessageRef, draw_code

ID = "vrf_" + "a" * 32
PHONE = "+14155550142"
OLD, NEW = "the old secret", "the new secret"


def test_codes_have_the_asked_length_and_keep_leading_zeros() -> None:
    codes = [draw_code(6) for _ in range(20_000)]
    assert {len(code) for code in codes} == {6}
    assert any(code.startswith("0") for code in codes)
    assert all(code.isascii() and code.isdigit() for code in codes)


def test_every_digit_is_as_likely_as_any_other_in_each_position() -> None:
    codes = [draw_code(6) for _ in range(50_000)]
    for position in range(6):
        seen = Counter(code[position] for code in codes)
        chi_square = sum((seen[digit] - 5000) ** 2 / 5000 for digit in "0123456789")
        assert chi_square < 45, "p < 1e-6 for nine degrees of freedom"


def test_codes_come_from_the_systems_random_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda limit: limit // 100)
    assert draw_code(6) == "010000"


def test_a_code_is_sealed_for_one_verification() -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal("012345", ID)
    assert sealer.unseal(sealed, ID) == "012345"
    assert sealed != sealer.seal("012345", ID)
    with pytest.raises(Unsealable):
        sealer.unseal(sealed, sealer.draw_id(PHONE))
    with pytest.raises(Unsealable):
        sealer.unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), ID)


def test_a_replaced_secret_still_opens_what_it_sealed() -> None:
    old = Sealer([OLD])
    sealed, token = old.seal("012345", ID), old.sign_token(CallRef(ID, 3))
    rotating, rotated = Sealer([NEW, OLD]), Sealer([NEW])
    assert rotating.unseal(sealed, ID) == "012345"
    assert rotating.read_token(token) == CallRef(ID, 3)
    assert rotated.read_token(token) is None
    with pytest.raises(Unsealable):
        rotated.unseal(sealed, ID)


def test_an_id_leads_to_its_number_for_those_who_have_the_secret() -> None:
    ids = [Sealer([OLD]).draw_id(phone) for phone in (PHONE, PHONE, "+999999999999999", "+1")]
    assert len(set(ids)) == 4
    assert all(VERIFICATION_ID.fullmatch(one) for one in ids)
    rotating, rotated = Sealer([NEW, OLD]), Sealer([NEW])
    assert [rotating.phone_of(one) for one in ids] == [PHONE, PHONE, "+999999999999999", "+1"]
    assert [rotated.phone_of(one) for one in ids] == [None] * 4


@pytest.mark.parametrize("text", ["", ID, ID + "0", "vrf_", "vrf_" + "g" * 32, "+14155550142", "vrf_" + "0" * 32])
def test_what_is_no_id_of_ours_leads_to_no_number(text: str) -> None:
    assert Sealer([NEW]).phone_of(text) is None


def test_an_id_tells_nothing_of_its_number() -> None:
    sealer = Sealer([NEW])
    ids = [sealer.draw_id(f"+1415555{number:04d}") for number in range(10_000)]
    for position in range(4, 36):
        seen = Counter(one[position] for one in ids)
        chi_square = sum((seen[digit] - 625) ** 2 / 625 for digit in "0123456789abcdef")
        assert chi_square < 65, "p < 1e-7 for fifteen degrees of freedom"


def test_matching_is_exact() -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal("012345", ID)
    assert sealer.matches(sealed, ID, "012345")
    for wrong in ("012346", "01234", "0123456", "", "٠١٢٣٤٥"):
        assert not sealer.matches(sealed, ID, wrong)


def test_a_token_stands_for_its_call_only() -> None:
    sealer = Sealer([NEW])
    token = sealer.sign_token(CallRef(ID, 2))
    assert sealer.read_token(token) == CallRef(ID, 2)
    assert sealer.sign_token(CallRef(ID, 3)) != token


def test_altered_tokens_are_refused() -> None:
    sealer = Sealer([NEW])
    token = sealer.sign_token(CallRef(ID, 2))
    altered = [token[:i] + ("0" if token[i] != "0" else "1") + token[i + 1 :] for i in range(len(token))]
    for text in (*altered, token[:-1], token + "0", token.upper(), token + "\n", "", "٠" * 68):
        assert sealer.read_token(text) is None, text


def test_a_message_token_stands_for_its_message_only_and_fits_into_a_carriers_reference() -> None:
    sealer = Sealer([NEW])
    refs = [
        MessageRef(id_, number) for id_ in (ID, "vrf_" + "0" * 32, "vrf_" + "f" * 32) for number in (1, 2, 65_535)
    ]
    tokens = [sealer.sign_message_token(ref) for ref in refs]
    assert len(set(tokens)) == len(refs)
    assert [sealer.read_message_token(token) for token in tokens] == refs
    assert all(re.fullmatch("[A-Za-z0-9]{1,32}", token) for token in tokens)


def test_altered_message_tokens_are_refused() -> None:
    sealer = Sealer([NEW])
    token = sealer.sign_message_token(MessageRef(ID, 2))
    altered = [token[:i] + ("0" if token[i] != "0" else "1") + token[i + 1 :] for i in range(len(token))]
    others = (token[:-1], token + "0", token + "\n", "", "z" * 31, "٠" * 31, sealer.sign_token(CallRef(ID, 2)))
    for text in (*altered, *others):
        assert sealer.read_message_token(text) is None, text


def test_a_message_token_outlives_the_replacement_of_its_secret() -> None:
    token = Sealer([OLD]).sign_message_token(MessageRef(ID, 3))
    assert Sealer([NEW, OLD]).read_message_token(token) == MessageRef(ID, 3)
    assert Sealer([NEW]).read_message_token(token) is None


def test_keys_are_every_pair_of_two_different_ones() -> None:
    sealer = Sealer([NEW])
    calls = [CallRef(sealer.draw_id(PHONE), 1) for _ in range(3000)]
    drawn = {sealer.draw_keys(call, attempt, 2) for call in calls for attempt in (0, 1)}
    assert drawn == {f"{one}{other}" for one in range(10) for other in range(10) if one != other}
    assert {sealer.draw_keys(call, 0, 1) for call in calls} == set("0123456789")
    assert sealer.draw_keys(calls[0], 1, 2) == sealer.draw_keys(calls[0], 1, 2)
