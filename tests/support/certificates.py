"""Certificates for loopback, issued by an authority that no client trusts by default."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates.

    Attributes:
        file: the authority's certificate (PEM), for clients that should trust it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = _name("authority")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "authority.pem"
        _write(self.file, _builder("authority", self._name, self._key, ca=True).sign(self._key, hashes.SHA256()))

    def issue(self, name: str, address: str = LOOPBACK) -> Issued:
        """Issue a certificate for an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(name, self._name, key, address=address).sign(self._key, hashes.SHA256())
        issued = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        _write(issued.certificate, made)
        _write_key(issued.key, key)
        return issued


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for 127.0.0.1.

    Returns:
        A server's context, and the PEM file that a client has to trust.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    authority, secret = folder / "authority.pem", folder / "key.pem"
    made = _builder("tests", _name("tests"), key, address=LOOPBACK, ca=True).sign(key, hashes.SHA256())
    _write(authority, made)
    _write_key(secret, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority, secret)
    return context, authority


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, address: str = "", ca: bool = False
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
    )
    if not address:
        return builder
    names = [x509.IPAddress(ipaddress.ip_address(address))]
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
