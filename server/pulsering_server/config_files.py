"""The files that ``cluster.yaml`` names: certificates and tokens, checked where a node would use them.

A client may read ``cluster.yaml`` on a machine that has none of these files, so they are looked at only for a
node: by ``serve``, on each reload, and by ``config validate``. Relative paths are relative to the file.
Checked on plain values, so that one bad key does not hide a bad file. What only ends soon is a warning.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pulsering import limits
from pulsering_server.admin_tokens import read_tokens
from pulsering_server.auth import BadTokenFile, read_auth
from pulsering_server.config_document import Document
from pulsering_server.config_errors import Problem

if TYPE_CHECKING:
    from pulsering_server.certificates import TlsNames
    from pulsering_server.config_schema import ClusterFile, TlsConfig

__all__ = [
    "covers_one_of",
    "ends_soon",
    "file_problems",
    "files_of",
    "open_to_all",
    "tls_names",
    "tls_problems",
]

_OF_CERTIFICATE: Final = ("key", "client_ca", "admin")


def tls_problems(document: Document) -> Iterator[Problem]:
    """Yield the keys of ``tls`` that mean nothing without a certificate."""
    section = document.root.get("tls")
    if not isinstance(section, dict) or section.get("certificate") is not None:
        return
    for name in _OF_CERTIFICATE:
        if section.get(name):
            message = f"tls.{name}: means nothing without tls.certificate: nobody would speak TLS"
            yield document.problem(message, document.nearest(("tls", name)))


def file_problems(document: Document, directory: Path, now: datetime) -> Iterator[Problem]:
    """Yield what is wrong with the files."""
    from pulsering_server.certificates import BadPem, authorities_of, pair_of, private_key_of

    names = _tls_names(document, directory)
    if names is not None:
        found: dict[str, str] = {}
        for check in (lambda: pair_of(names, now), lambda: private_key_of(names)):
            try:
                check()
            except BadPem as error:
                found.setdefault(error.key, str(error))
        try:
            if names.client_ca is not None:
                authorities_of(names.client_ca, now)
        except BadPem as error:
            found[error.key] = str(error)
        for key, message in found.items():
            yield _problem(document, ("tls", key), message)
    for section, read in (("auth", read_auth), ("admin", read_tokens)):
        tokens = _path(document, directory, section, "token_file")
        if tokens is not None:
            try:
                read(tokens)
            except BadTokenFile as error:
                yield _problem(document, (section, "token_file"), str(error))


def ends_soon(document: Document, directory: Path, now: datetime) -> Iterator[Problem]:
    """Yield warnings about certificates with few days left; files that cannot be used have been told of."""
    from pulsering_server.certificates import BadPem, authorities_of, pair_of

    names = _tls_names(document, directory)
    if names is None:
        return
    ends: list[tuple[str, datetime]] = []
    try:
        ends.append(("certificate", pair_of(names, now).not_after))
        if names.client_ca is not None:
            ends.append(("client_ca", authorities_of(names.client_ca, now)))
    except BadPem:
        pass
    for key, end in ends:
        left = end - now
        if left < timedelta(days=limits.CERTIFICATE_DAYS_MIN):
            days = f"{left.days} day{'' if left.days == 1 else 's'}"
            yield _problem(document, ("tls", key), f"ends on {end:%Y-%m-%d}, in {days}", warning=True)


def covers_one_of(tls: "TlsConfig", directory: Path, hosts: Iterable[str], now: datetime) -> bool:
    """Whether the certificate is for one of these hosts, or cannot be read, of which others tell.

    Each node has its own, so more cannot be said on one machine.
    """
    from pulsering_server.certificates import BadPem, pair_of

    names = tls_names(tls, directory)
    assert names is not None
    try:
        leaf = pair_of(names, now)
    except BadPem:
        return True
    return any(map(leaf.covers, hosts))


def open_to_all(config: "ClusterFile") -> bool:
    """Whether nodes let in whoever reaches their port."""
    return config.auth.token_file is None and config.tls.client_ca is None


def files_of(config: "ClusterFile", directory: Path) -> list[Path]:
    """Return all files that a configuration names and a node follows."""
    tls = config.tls
    names = (tls.certificate, tls.key, tls.client_ca, config.auth.token_file)
    return [directory / name for name in names if name is not None]


def tls_names(tls: "TlsConfig", directory: Path) -> "TlsNames | None":
    """Return the files of a checked section; None if no TLS is spoken."""
    from pulsering_server.certificates import TlsNames

    if tls.certificate is None:
        return None
    return TlsNames(
        directory / tls.certificate,
        None if tls.key is None else directory / tls.key,
        None if tls.client_ca is None else directory / tls.client_ca,
        tls.minimum_version,
    )


def _tls_names(document: Document, directory: Path) -> "TlsNames | None":
    from pulsering_server.certificates import TlsNames

    certificate = _path(document, directory, "tls", "certificate")
    if certificate is None:
        return None
    return TlsNames(
        certificate, _path(document, directory, "tls", "key"), _path(document, directory, "tls", "client_ca")
    )


def _path(document: Document, directory: Path, section: str, key: str) -> Path | None:
    """The path at a key; None where there is none that can be used, of which the schema has told."""
    root: Any = document.root
    values = root.get(section) if isinstance(root, dict) else None
    value = values.get(key) if isinstance(values, dict) else None
    return directory / value if isinstance(value, str) and value else None


def _problem(document: Document, path: tuple[str, str], message: str, *, warning: bool = False) -> Problem:
    value = document.root[path[0]][path[1]]
    text = f"{'.'.join(path)}: {os.fspath(value)}: {message}"
    return document.problem(text, document.nearest(path), warning=warning)
