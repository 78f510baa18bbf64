"""No output of the command repeats a password, whoever wrote it there."""

import base64
from pathlib import Path

import pytest

from crossmount.cli.failures import message_of
from crossmount.errors import RegistryError
from crossmount.testing import BasicAuth, Fault, RegistryOptions, Reply, running_registry
from support.commands import Here, Shell
from support.images import make_layout

PASSWORD = "S3CRETpassword"
PAIR = base64.b64encode(f"ci:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize("reference", ["https://user:{}@r.example.test/x", "user:{}@r.example.test/x:1"])
@pytest.mark.parametrize(
    "command",
    [
        ("push", "IMAGE", "REFERENCE"),
        ("push", "REFERENCE", "r.example.test/x"),
        ("copy", "REFERENCE", "b.example.test/x"),
        ("copy", "b.example.test/x", "REFERENCE"),
        ("doctor", "REFERENCE"),
        ("locate", "REFERENCE"),
        ("scan", "REFERENCE"),
        ("sources", "REFERENCE"),
        ("add", "sha256:" + "a" * 64, "REFERENCE"),
        ("forget", "sha256:" + "a" * 64, "REFERENCE"),
        ("doctor", "--index", "REFERENCE"),
        ("push", "IMAGE", "r.example.test/x", "--authfile", "REFERENCE"),
        ("proxy", "--upstream", "REFERENCE"),
    ],
)
def test_a_password_in_an_argument_is_not_repeated(
    here: Here, tmp_path: Path, command: tuple[str, ...], reference: str
) -> None:
    """Wherever a reference or a URL with a password is given, it is refused without the password."""
    image = str(make_layout(tmp_path / "image").path)
    for password in (PASSWORD, f"{PASSWORD}'s/own@", f'{PASSWORD}"quoted'):
        words = {"IMAGE": image, "REFERENCE": reference.format(password)}
        done = here(*(words.get(word, word) for word in command))
        assert done.status != 0
        assert PASSWORD not in done.out + done.err


def test_tracebacks_and_logs_hold_no_credential(shell: Shell, tmp_path: Path) -> None:
    """With -vv, too, nothing shows what a registry repeats of the credentials that it was sent."""
    file = tmp_path / "auth.json"
    with running_registry(RegistryOptions(auth=BasicAuth(users={"ci": PASSWORD}))) as registry:
        file.write_text(f'{{"auths": {{"{registry.address}": {{"auth": "{PAIR}"}}}}}}')
        body = f'{{"errors": [{{"code": "BAD", "message": "Authorization: Basic {PAIR} of ci:{PASSWORD}"}}]}}'
        registry.play(Fault(action=Reply(status=400, body=body.encode()), path="*/tags/list", skip=1, times=None))
        arguments = ("scan", f"{registry.address}/team/app", "--plain-http", "--index", "memory://", "-vv")
        done = shell(*arguments, "--authfile", str(file))
    assert "BAD" in done.out + done.err
    assert PASSWORD not in done.out + done.err
    assert PAIR not in done.out + done.err


def test_a_message_is_masked_whoever_made_it() -> None:
    """A message of ours that holds a password all the same is masked when it is printed."""
    words = message_of(RegistryError(f"GET https://u:{PASSWORD}@r/x: sent Authorization: Basic {PAIR}"))
    assert words == "GET https://***@r/x: sent Authorization: Basic ***"
