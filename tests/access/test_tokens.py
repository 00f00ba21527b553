"""Tokens: who has the secret has a role; nobody else has, and nothing shows the secret."""

from __future__ import annotations

import logging
import traceback

import pytest

from atoll.access.errors import AccessError
from atoll.access.tokens import Role, Secret, authorization, check, new_secret, role_of, token


def test_every_role_is_known_by_its_own_header() -> None:
    secret = new_secret()
    for role in Role:
        assert role_of(authorization(secret, role), secret) is role
    assert len({token(secret, role) for role in Role}) == len(Role)


@pytest.mark.parametrize(
    "header", ["", "Bearer ", "Bearer x", "Basic abc", "Bearer \udcff\u20ac", "bearer " + "0" * 64]
)
def test_any_other_header_is_nobody(header: str) -> None:
    assert role_of(header, new_secret()) is None


def test_a_token_of_another_run_and_the_secret_itself_are_nobody() -> None:
    secret = new_secret()
    assert role_of(authorization(new_secret(), Role.LEARNER), secret) is None
    assert role_of("Bearer " + secret.reveal(), secret) is None
    assert role_of(token(secret, Role.LEARNER), secret) is None


def test_a_token_is_the_same_tomorrow() -> None:
    # A change here locks every learner out of a run that goes on.
    expected = "e3bda8747045fb85"
    assert token(Secret("A" * 43), Role.LEARNER)[:16] == expected


def test_check_compares_all() -> None:
    assert check("abc", "abc")
    assert not check("abc", "abd") and not check("ab", "abc") and not check("", "abc")


def test_secrets_differ_and_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    secret = new_secret()
    assert secret != new_secret()
    logging.getLogger("access").warning("have %s and %r", secret, secret)
    assert secret.reveal() not in caplog.text + repr([secret]) + f"{secret}"
    assert "****" in caplog.text


def test_a_secret_that_was_cut_short_is_refused_without_showing_it() -> None:
    with pytest.raises(AccessError, match="43 URL-safe letters") as caught:
        Secret("not-a-secret")
    assert "not-a-secret" not in "".join(traceback.format_exception_only(caught.value))
