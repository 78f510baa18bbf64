"""The secret that registries send with webhooks."""

import base64
from pathlib import Path

import pytest

from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError

SECRET, OTHER = "correct-horse-battery", "staple-of-the-other-year"


def basic(text: str) -> str:
    """Return a Basic header's value."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.fixture
def secrets(tmp_path: Path) -> WebhookSecrets:
    """A new and an old secret."""
    file = tmp_path / "secrets"
    file.write_text(f"# for the registry\n\n{SECRET}\n  {OTHER}\n")
    return WebhookSecrets.read(file)


@pytest.mark.parametrize(
    "header",
    [f"Bearer {SECRET}", f"bearer  {OTHER}", SECRET, basic(f"any:{SECRET}"), basic(f":{OTHER}")],
)
def test_each_registry_sends_the_secret_in_its_own_way(secrets: WebhookSecrets, header: str) -> None:
    """A secret is accepted as a Bearer token, as a URL's password, and as the whole value."""
    assert secrets.accept(header)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET[:-1]}",
        basic(SECRET),
        basic(f"{SECRET}:"),
        "Basic !!!",
        "Bearer # for the registry",
        "Bearer \udcff",
        f"Token {SECRET}",
    ],
)
def test_anything_else_is_refused(secrets: WebhookSecrets, header: str | None) -> None:
    """Parts of a secret, a secret as the user name, and invalid values are refused."""
    assert not secrets.accept(header)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"short\n", f"{SECRET}\nshort\n".encode()])
def test_a_file_without_a_good_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    """A missing, empty or short secret is refused."""
    file = tmp_path / "secrets"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match="at least 16"):
        WebhookSecrets.read(file)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        WebhookSecrets.read(tmp_path / "nowhere")


def test_secrets_are_not_shown(secrets: WebhookSecrets) -> None:
    """Secrets do not appear in their repr."""
    assert SECRET not in repr(secrets)
