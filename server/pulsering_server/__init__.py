"""The Pulsering node: a shard of the presence table behind a TCP port."""
