"""The ``pulsering`` command line: thin verbs over the client, the node and the configuration."""

from pulsering_server.cli.app import run

__all__ = ["run"]
