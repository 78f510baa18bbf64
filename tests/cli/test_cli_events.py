"""`crossmount events`, and the proxy's endpoint for events."""

import json
import signal
from pathlib import Path

import httpx
import pytest

import redis
from crossmount.index import Keys
from crossmount.oci import Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.testing import running_registry
from support.commands import Shell
from support.holdings import put_image
from support.servers import Server
from support.waiting import PATIENCE, until_now

SECRET = "a-secret-of-the-registry"
LAYER = b"layer"


@pytest.mark.parametrize("command", ["events", "proxy"])
def test_events_are_taken_until_sigterm(shell: Shell, valkey: Server, tmp_path: Path, command: str) -> None:
    """The service prints its address, records the layers of an event, and exits with status 0 on SIGTERM."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    with running_registry() as registry:
        manifest = put_image(registry, "a", "1", [LAYER])
        options = {
            "events": ("--registry", registry.address, "--secret-file", str(secret), "--plain-http"),
            "proxy": ("--upstream", registry.url, "--events-secret-file", str(secret)),
        }[command]
        arguments = (command, "--listen", "127.0.0.1:0", *options)
        with shell.start(*arguments, CROSSMOUNT_INDEX=valkey.url) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            target = {"repository": "a", "digest": manifest, "mediaType": OCI_MANIFEST}
            body = json.dumps({"events": [{"action": "push", "target": target}]})
            page = f"{url}/_crossmount/events"
            assert httpx.post(page, content=body).status_code == 401
            headers = {"Authorization": f"Bearer {SECRET}"}
            assert httpx.post(page, content=body, headers=headers).status_code == 202
            client = redis.Redis(unix_socket_path=str(valkey.socket))
            until_now(lambda: client.exists(Keys().sources(Digest.of(LAYER), registry.address)) == 1)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert SECRET not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--registry", "r.example", "--listen", "0.0.0.0:0"), "without a secret would come from anybody"),
        ((), "missing option '--registry'"),
        (("--registry", "no registry"), "not a registry"),
        (("--registry", "r.example", "--listen", "nowhere"), "is not host:port"),
        (("--registry", "r.example", "--secret-file", "/nowhere"), "--secret-file"),
        (("--registry", "r.example", "--index", "off"), "this needs an index"),
    ],
)
def test_wrong_settings_are_reported_at_once(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    """A wrong setting is one line and status 2."""
    done = shell("events", *arguments)
    assert done.status == 2
    assert words in done.complaint
