"""What the example server is told, and what its tokens are worth."""

from dataclasses import replace

from support.example import SECRET

from examples.api_server.auth import token_for, user_of
from examples.api_server.settings import Settings


def test_a_token_is_of_one_user_and_one_secret() -> None:
    token = token_for("ada", SECRET)
    assert user_of(token, SECRET) == "ada"
    assert user_of(token, SECRET + b"!") is None
    assert user_of(token[:-1], SECRET) is None
    assert user_of("", SECRET) is user_of("." + token.partition(".")[2], SECRET) is None


def test_settings_come_from_the_environment_and_keep_their_secret() -> None:
    told = Settings.from_environment(
        {"PULSERING_URL": "presence://h1", "EXAMPLE_SECRET": "hush", "EXAMPLE_FRIENDS": "ada,bob"}
    )
    assert (told.url, told.secret, told.friends) == ("presence://h1", b"hush", ("ada", "bob"))
    assert "hush" not in repr(told)
    alone = Settings.from_environment({})
    assert alone == replace(Settings(), secret=alone.secret)
    assert alone.secret != Settings().secret
