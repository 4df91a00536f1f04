"""The Anubis protocol, sans-IO: bytes, suites, keys between hosts, and both halves of an exchange.

`docs/protocol.md` is its specification. Knows no sockets, no files and no policy.
"""
