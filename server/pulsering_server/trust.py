"""Whom a process trusts where nodes speak TLS, and what it shows of itself: files, told by the environment.

Commands are told so at both ports, and a node when it asks other nodes at their admin ports.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pulsering.credentials import TlsFiles

__all__ = ["TLS_VARIABLES", "trust_of"]

TLS_VARIABLES: Final = {
    "tls_ca": "PULSERING_CLIENT_CA",
    "tls_certificate": "PULSERING_CLIENT_CERTIFICATE",
    "tls_key": "PULSERING_CLIENT_KEY",
}
"""Options of the client, and what tells them."""


def trust_of(
    environment: Mapping[str, str], certificate: Path | None = None, key: Path | None = None
) -> "TlsFiles":
    """Whom to trust and what to show, as ``TLS_VARIABLES`` say; ``certificate`` is shown if they name none.

    Raises ``ConfigError``.
    """
    from pulsering.credentials import TlsFiles

    ca, shown, its_key = (environment.get(name) or None for name in TLS_VARIABLES.values())
    if shown is None and certificate is not None:
        shown, its_key = str(certificate), None if key is None else str(key)
    return TlsFiles(ca, shown, its_key)
