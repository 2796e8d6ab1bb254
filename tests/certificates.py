"""Certificates for servers under test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def write_certificate(certificate: Path, key: Path, *, days: float = 1) -> None:
    """Write a self-signed certificate for 127.0.0.1 that is valid until then; before now, it was for a day."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = _name("localhost")
    now = datetime.now(UTC)
    ends = now + timedelta(days=days)
    begins = min(now, ends - timedelta(days=1))
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number(), begins, ends)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(private, SHA256())
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    key.write_bytes(_pem(private))


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of one's own, as companies and cloud providers have it for their databases.

    :param folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"authority in {folder.name}")
        now = datetime.now(UTC)
        self._until = now + timedelta(days=1)
        signed = (
            x509.CertificateBuilder(
                self._name, self._name, self._key.public_key(), x509.random_serial_number(), now, self._until
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(signed.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, password: bytes | None = None) -> Issued:
        """Write a certificate for a host or a user.

        :param password: of the key.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        now = datetime.now(UTC)
        signed = (
            x509.CertificateBuilder(
                self._name, _name(name), private.public_key(), x509.random_serial_number(), now, self._until
            )
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(issuer, critical=False)
            .sign(self._key, SHA256())
        )
        issued = Issued(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        issued.certificate.write_bytes(signed.public_bytes(Encoding.PEM))
        issued.key.write_bytes(_pem(private, password))
        issued.key.chmod(0o600)
        return issued

    def revoke(self, *revoked: Issued) -> Path:
        """Write the list of certificates that hold no longer."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(self._name, now, self._until)
        for each in revoked:
            serial = x509.load_pem_x509_certificate(each.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        path = self._folder / f"revoked-{len(revoked)}.pem"
        path.write_bytes(builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
        return path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(private: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _usage(**true: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: true.get(name, False) for name in names})
