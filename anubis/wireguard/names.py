"""Which texts can name a network interface.

Owns the kernel's rule (dev_valid_name of net/core/dev.c), checked before a name becomes part of
a path or a message; refuses to know which interfaces there are.
"""

from __future__ import annotations

import errno

from anubis.wireguard.errors import BackendError

__all__ = ["NAME_SIZE", "check_interface_name"]

NAME_SIZE = 15  # bytes: IFNAMSIZ of linux/if.h less the terminating zero


def check_interface_name(name: str) -> None:
    """Raise BackendError unless `name` can name an interface."""
    # A percent sign is allowed by the rule, but makes the kernel choose a number in its place.
    valid = (
        name not in {"", ".", ".."}
        and len(name.encode("utf-8", "surrogatepass")) <= NAME_SIZE
        and name.isprintable()
        and not any(character in "/:%" or character.isspace() for character in name)
    )
    if not valid:
        raise BackendError(
            f"{name!r} cannot name an interface: 1 to {NAME_SIZE} bytes, no space, slash, colon "
            "or percent sign",
            name,
            errno.EINVAL,
        )
