"""Tokens that clients keep, and passwords that are refused."""

import pytest

from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.identity import (
    RefreshToken,
    check_password,
    invitation_hash,
    invitation_text,
    login_email,
    normal_password,
)

TOKEN = RefreshToken(b"s" * 16, b"f" * 16, b"x" * 32)


def test_a_refresh_token_survives_its_text() -> None:
    assert RefreshToken.parsed(TOKEN.text) == TOKEN
    assert TOKEN.text.startswith("tfr_")
    assert TOKEN.text not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    ["", "tfr_", TOKEN.text[:-1], TOKEN.text + "A", TOKEN.text[4:], "tfr_" + "!" * 86, "x" * 5000],
)
def test_what_is_no_refresh_token(text: str) -> None:
    assert RefreshToken.parsed(text) is None


def test_hashes_tell_family_and_token_apart() -> None:
    other = RefreshToken(TOKEN.session_id, TOKEN.family, b"y" * 32)
    assert other.family_hash == TOKEN.family_hash
    assert other.token_hash != TOKEN.token_hash
    strange = RefreshToken(b"t" * 16, TOKEN.family, TOKEN.secret)
    assert strange.family_hash != TOKEN.family_hash


def test_an_invitation_is_known_by_its_hash() -> None:
    text = invitation_text(b"i" * 32)
    assert (
        invitation_hash(text)
        == invitation_hash(text)
        != invitation_hash(invitation_text(b"j" * 32))
    )
    assert invitation_hash("tfi_x") is None
    assert invitation_hash(TOKEN.text) is None


def test_upper_case_makes_no_other_person() -> None:
    assert login_email("Ada@Example.COM") == "ada@example.com"


def test_one_form_for_the_same_characters() -> None:
    assert normal_password("pa\u0308sse") == normal_password("p\u00e4sse")


@pytest.mark.parametrize(
    "password", ["aaaaaaaaaaaa", "abababababab", "ada@example.com", "ADA@example.com"]
)
def test_passwords_that_are_guessed_first(password: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_password(password, "ada@example.com")
    assert refused.value.field == "password"
    assert password not in str(refused.value)


def test_a_sentence_is_fine() -> None:
    check_password("correct horse battery staple", "ada@example.com")
