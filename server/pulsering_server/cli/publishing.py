"""What ``apply`` does where nodes follow etcd: write the key, if nobody has since it was looked at.

It is looked at before anything is done, and nothing is written over what is newer. A key that is not there
yet is made at once, as running nodes follow their files until then. Invariant: of two who apply at the same
time, one writes and the other is told.
"""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer

from pulsering_server.cli.rollout import NotApplied
from pulsering_server.config import parse_config
from pulsering_server.config_errors import ConfigErrors
from pulsering_server.etcd import EtcdFailed, EtcdKey
from pulsering_server.etcd_url import parse_etcd_url

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig

__all__ = ["Publishing"]


class Publishing:
    """``async with Publishing(config, text) as publishing``, then ``write`` it. Raises ``NotApplied``."""

    def __init__(self, config: "ClusterConfig", text: str, *, quiet: bool = False) -> None:
        assert config.published is not None
        self._config = config
        self._text = text
        self._quiet = quiet
        self._where = config.published
        self._key = EtcdKey(parse_etcd_url(self._where))
        self._revision = 0
        self._done = False

    async def __aenter__(self) -> Self:
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._key)
                found = await self._key.get()
                self._revision = found.revision
                self._done = found.text == self._text
                if not found.revision:
                    await self.write()
                elif not self._done:
                    self._compare(found.text)
                self._stack = stack.pop_all()
        except EtcdFailed as error:
            raise NotApplied(str(error)) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _compare(self, text: str) -> None:
        """``NotApplied`` if what is published is no older than ours, and another."""
        try:
            published = parse_config(text, self._where)
        except ConfigErrors:
            return  # nodes refuse it; ours is better
        epoch = self._config.epoch
        if published.epoch > epoch:
            raise NotApplied(
                f"{self._where}: is at epoch {published.epoch} already, which is newer than {epoch}"
            )
        if published.epoch == epoch and published.topology().hash != self._config.topology().hash:
            raise NotApplied(
                f"{self._where}: holds another topology of epoch {epoch}: give this one a higher epoch"
            )

    async def write(self) -> None:
        """Write it, once."""
        if self._done:
            return
        try:
            written = await self._key.put_if(self._text, self._revision)
        except EtcdFailed as error:
            raise NotApplied(str(error)) from None
        if not written:
            raise NotApplied(f"{self._where}: somebody else has written it meanwhile: look, and start again")
        self._done = True
        if not self._quiet:
            typer.echo(f"{self._where}: published", err=True)
