"""Signatures of a ledger's entries (Ed25519), by the package cryptography where it is installed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import IntegrityError, StorageError, require

PRIVATE, PUBLIC = "signing.key", "signing.pub"
_ABOUT = b"unweave ledger entry\n"


def can_sign() -> bool:
    """Whether the package is there."""
    return find_spec("cryptography") is not None


class Signer:
    """The two halves of a ledger's key, each a file of its folder; the private one is readable by its owner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._private: Any = None
        self._public: dict[str, Any] = {}

    def make(self) -> str:
        """Write a new pair.

        Returns:
            The public key, in hexadecimal digits.
        """
        private = self._package("asymmetric.ed25519").Ed25519PrivateKey.generate()
        handle = os.open(self.folder / PRIVATE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(private.private_bytes_raw().hex().encode() + b"\n")
        public: str = private.public_key().public_bytes_raw().hex()
        (self.folder / PUBLIC).write_text(public + "\n", encoding="utf-8")
        return public

    def sign(self, digest: bytes) -> str:
        """Sign a hash.

        Raises:
            StorageError: if the private key is gone.
            IntegrityError: if it is damaged.
        """
        if self._private is None:
            file = self.folder / PRIVATE
            try:
                raw = bytes.fromhex(file.read_text(encoding="utf-8").strip())
            except OSError as error:
                raise StorageError(
                    f"{file}, by which entries are signed, cannot be read ({error.strerror}). Put it back: a ledger "
                    "that was signed takes no entry that is not."
                ) from error
            except ValueError as error:
                raise IntegrityError(f"{file} is damaged. Put the right file back.") from error
            self._private = self._package("asymmetric.ed25519").Ed25519PrivateKey.from_private_bytes(raw)
        signature: bytes = self._private.sign(_ABOUT + digest)
        return signature.hex()

    def agrees(self, signature: str, digest: bytes, public: str) -> bool:
        """Whether the holder of the private half of `public` signed this hash."""
        if public not in self._public:
            make = self._package("asymmetric.ed25519").Ed25519PublicKey.from_public_bytes
            self._public[public] = make(bytes.fromhex(public))
        try:
            self._public[public].verify(bytes.fromhex(signature), _ABOUT + digest)
        except (self._package("exceptions", "").InvalidSignature, ValueError):
            return False
        return True

    def _package(self, name: str, below: str = "hazmat.primitives.") -> Any:
        return require(f"cryptography.{below}{name}", extra="ledger", purpose="the signatures of a ledger")
