"""An API server as a backend service would have one: devices speak HTTP to it, it speaks
Pulsering.

``make example`` runs it with a throw-away cluster; docs/example.md walks through it.
"""
