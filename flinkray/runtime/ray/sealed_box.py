"""Secrets on their way to one TaskManager: sealed to its public key, so that Ray's arguments, logs and object store hold nothing readable.

X25519 agreement, HKDF-SHA256, AES-256-GCM: the construction of RFC 9180's base mode in outline, from the cryptography package.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_KEY_BYTES = 32
_NONCE_BYTES = 12


class BoxKeys:
    """The receiver's side. The private key never leaves the process."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    @property
    def public(self) -> bytes:
        return _raw(self._private.public_key())

    def open(self, sealed: bytes) -> bytes:
        """Raises cryptography.exceptions.InvalidTag when it was sealed for somebody else or changed on the way."""
        sender, nonce, body = sealed[:_KEY_BYTES], sealed[_KEY_BYTES : _KEY_BYTES + _NONCE_BYTES], sealed[_KEY_BYTES + _NONCE_BYTES :]
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(sender))
        return AESGCM(_derive(shared, sender, self.public)).decrypt(nonce, body, None)


def seal_for(public: bytes, plain: bytes) -> bytes:
    """What only the owner of `public`'s private key can open."""
    ephemeral = X25519PrivateKey.generate()
    sender = _raw(ephemeral.public_key())
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
    nonce = os.urandom(_NONCE_BYTES)
    return sender + nonce + AESGCM(_derive(shared, sender, public)).encrypt(nonce, plain, None)


def _derive(shared: bytes, sender: bytes, receiver: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"flinkray secrets 1" + sender + receiver).derive(shared)


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
