"""One contract for everything that claims to be a WireGuard backend."""
