"""What people keep for one registry in certs.d."""

import os
import ssl
from pathlib import Path

import pytest

from crossmount.errors import InvalidInputError
from crossmount.registry.http import certificates
from support.certificates import Authority

NAME = "registry.example.com:5000"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that no system trusts."""
    return Authority(tmp_path)


def place(folder: Path, files: dict[str, bytes], name: str = NAME) -> Path:
    """Make a certs.d folder with files for one registry."""
    (folder / name).mkdir(parents=True)
    for file, content in files.items():
        (folder / name / file).write_bytes(content)
    return folder


def test_the_first_folder_for_a_registry_is_the_one_that_counts(tmp_path: Path, authority: Authority) -> None:
    """A person's own folder stands before the system's, as containers-certs.d(5) says."""
    pem = authority.file.read_bytes()
    mine, systems = place(tmp_path / "mine", {"own.crt": pem}), place(tmp_path / "system", {"ca.crt": pem})
    found = certificates.find([NAME], [tmp_path / "absent", mine, systems])
    assert found.authorities == (mine / NAME / "own.crt",)
    assert certificates.find(["other.example.com"], [mine, systems]) == certificates.Certificates()


def test_a_default_port_may_be_spelt_or_left_out(tmp_path: Path, authority: Authority) -> None:
    """Both spellings of one registry find its folder."""
    folder = place(tmp_path / "certs.d", {"ca.crt": authority.file.read_bytes()}, "registry.example.com:443")
    assert certificates.find(["registry.example.com", "registry.example.com:443"], [folder]).authorities


def test_authorities_and_a_client_certificate_are_loaded(tmp_path: Path, authority: Authority) -> None:
    """A context trusts what is in the folder besides what it trusted before."""
    issued = authority.issue("client")
    files = {
        "ca.crt": authority.file.read_bytes(),
        "client.cert": issued.certificate.read_bytes(),
        "client.key": issued.key.read_bytes(),
        "notes.txt": b"not read",
    }
    folder = place(tmp_path / "certs.d", files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found = certificates.find([NAME], [folder])
    assert found.pairs == ((folder / NAME / "client.cert", folder / NAME / "client.key"),)
    found.load_into(context)
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"client.cert": b""}, r"client\.cert: client\.key is missing beside it"),
        ({"client.key": b""}, r"client\.key: client\.cert is missing beside it"),
        ({"ca.crt": b"nonsense"}, r"ca\.crt: not a readable PEM file of authorities"),
        ({"client.cert": b"nonsense", "client.key": b""}, r"client\.cert, .*client\.key: not a readable PEM"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    """The error names the file and what to do."""
    folder = place(tmp_path / "certs.d", files)
    with pytest.raises(InvalidInputError, match=words):
        certificates.find([NAME], [folder]).load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.mark.parametrize("name", ["ca.crt", "client.cert", "client.key"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """A FIFO is refused by its name: OpenSSL would wait for its writer for ever."""
    partners = {"client.cert": "client.key", "client.key": "client.cert"}
    folder = place(tmp_path / "certs.d", {partners[name]: b""} if name in partners else {})
    os.mkfifo(folder / NAME / name)
    with pytest.raises(InvalidInputError, match=rf"{name}: not a file"):
        certificates.find([NAME], [folder]).load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def test_the_places_are_those_of_podman_and_docker() -> None:
    """A person's folder, then the two of the system."""
    found = certificates.folders({"HOME": "/home/ann"})
    assert [str(folder) for folder in found] == [
        "/home/ann/.config/containers/certs.d",
        "/etc/containers/certs.d",
        "/etc/docker/certs.d",
    ]
    assert str(certificates.folders({"HOME": "/h", "XDG_CONFIG_HOME": "/x"})[0]) == "/x/containers/certs.d"
