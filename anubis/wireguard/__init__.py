"""WireGuard control for asyncio: keys, types, and backends for the kernel and for userspace.

Knows nothing of Anubis and could be lifted out: it imports nothing above itself.
"""
