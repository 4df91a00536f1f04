"""The kinds of values that both files share: text becomes a port, a key, a network.

Owns what each kind looks like and the words that say so; refuses to know files, lines and which
key wants which kind. Every function takes the text of one value and raises BadValue, nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network, ip_address

from anubis.addresses import CONTROL_PREFIX
from anubis.durations import parse_duration
from anubis.files.ini import BadValue, squeeze, suggestion
from anubis.wireguard.errors import KeyFormatError
from anubis.wireguard.keys import PresharedKey, PrivateKey, PublicKey
from anubis.wireguard.types import Endpoint, IPNetwork

__all__ = [
    "duration",
    "interface_address",
    "interface_name",
    "listen_address",
    "name",
    "network",
    "number",
    "one_of",
    "persistent_keepalive",
    "port",
    "preshared_key",
    "private_key",
    "public_key",
    "yes_or_no",
]

_DECIMAL = re.compile(r"[0-9]{1,10}")
_HEX = re.compile(r"0[xX][0-9a-fA-F]{1,8}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_INTERFACE = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")  # what wg-quick(8) takes; IFNAMSIZ is 16
_PREFIX = re.compile(r"[0-9a-fA-F.:]+(/[0-9]{1,3})?")

_P = 2**255 - 19
# The u-coordinates whose X25519 with any private key is zero (RFC 7748 section 6.1): those of the
# points of order 1, 2, 4 and 8 on the curve and on its twist.
_LOW_ORDER = frozenset(
    {
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


def number(text: str) -> int:
    """Parse a decimal or 0x number as `wg` does; `off` is 0."""
    text = squeeze(text)
    if text.lower() == "off":
        return 0
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    raise BadValue("not a number", "decimal, or hexadecimal like 0xd6")


def port(text: str) -> int:
    """Parse a UDP port."""
    text = squeeze(text)
    if not _DECIMAL.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise BadValue("not a port", "1 to 65535")
    return int(text)


def listen_address(text: str) -> Endpoint | None:
    """Parse an address of this host and a TCP port; `off` is None."""
    text = squeeze(text)
    if text.lower() == "off":
        return None
    host, _, number_ = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    wrong = BadValue("not an address and a port", "like 127.0.0.1:9586 or [::1]:9586, or off")
    try:
        address = ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise wrong from None
    if "%" in host or (address.version == 6) != is_bracketed:
        raise wrong
    return Endpoint(address, port(number_))


def persistent_keepalive(text: str) -> int:
    """Parse an interval in seconds as `wg` does; `off` is 0."""
    text = squeeze(text)
    if text.lower() == "off":
        return 0
    if not _DECIMAL.fullmatch(text) or int(text) > 65535:
        raise BadValue("not an interval", "seconds from 1 to 65535, or off")
    return int(text)


def duration(text: str) -> int:
    """Parse a duration of at least a second, in seconds."""
    try:
        seconds = parse_duration(squeeze(text))
    except ValueError as error:
        raise BadValue(str(error)) from None
    if seconds == 0:
        raise BadValue("no time at all", "write it like 90s, 30m, 8h or 1d12h")
    return seconds


def idle_timeout(text: str) -> int:
    """Parse for how long a connection may be idle, in seconds; `off` is 0."""
    return 0 if squeeze(text).lower() == "off" else duration(text)


def name(text: str) -> str:
    """Parse the name of an entry or group; its case does not count."""
    folded = text.lower()
    if not _NAME.fullmatch(folded):
        raise BadValue(
            "not a name", "1 to 63 letters, digits, - _ and ., beginning with a letter or digit"
        )
    return folded


def interface_name(text: str) -> str:
    """Parse the name of a network interface."""
    # "all" and "default" stand for every interface in /proc/sys/net/*/conf.
    if not _INTERFACE.fullmatch(text) or text in {".", "..", "all", "default"}:
        raise BadValue("not an interface name", "1 to 15 of letters, digits and _ = + . -")
    return text


def one_of(known: Mapping[str, object], what: str) -> Callable[[str], str]:
    """Return a parser of one word among `known`, whatever its case."""

    def parse_word(text: str) -> str:
        word = squeeze(text).lower()
        if word not in known:
            raise BadValue(f"not {what}", suggestion(word, list(known), "one of"))
        return word

    return parse_word


def yes_or_no(text: str) -> bool:
    """Parse an answer, whatever its case."""
    return one_of({"yes": True, "no": False}, "an answer")(text) == "yes"


def public_key(text: str) -> PublicKey:
    """Parse a public key; one of low order, which shares no secret with anybody, is refused."""
    try:
        key = PublicKey.from_base64(squeeze(text))
    except KeyFormatError as error:
        raise BadValue(f"not a public key: {error}", "44 characters, from `wg pubkey`") from None
    # X25519 ignores the highest bit and reduces modulo p (RFC 7748 section 5).
    if int.from_bytes(bytes(key), "little") % 2**255 % _P in _LOW_ORDER:
        raise BadValue("a key of low order, which nobody has", "44 characters, from `wg pubkey`")
    return key


def private_key(text: str) -> PrivateKey:
    """Parse a private key, which no error shows."""
    try:
        return PrivateKey.from_base64(squeeze(text))
    except KeyFormatError as error:
        raise BadValue(str(error), "44 characters, as `wg genkey` prints") from None


def preshared_key(text: str) -> PresharedKey:
    """Parse a preshared key; all zeros is WireGuard's word for none and is refused."""
    try:
        key = PresharedKey.from_base64(squeeze(text))
    except KeyFormatError:
        raise BadValue("not a preshared key", "44 characters, from `wg genpsk`") from None
    if not any(bytes(key)):
        raise BadValue("all zeros, which WireGuard takes for none", "delete the line")
    return key


def network(text: str) -> IPNetwork:
    """Parse a network of AllowedIPs or Throw: bits beyond the prefix are cut off, as by `wg`.

    What lies in the prefix of the control plane belongs to no other interface.
    """
    text = squeeze(text)
    if text.startswith(("+", "-")):
        raise BadValue("not a network", "+ and - are for `wg set`; a file says all networks")
    try:
        found = ipaddress.ip_network(_prefix(text), strict=False)
    except ValueError:
        raise BadValue("not a network", "like 10.1.0.0/16 or fd00:1::/48") from None
    if isinstance(found, IPv6Network) and found.subnet_of(CONTROL_PREFIX):
        raise BadValue(f"{CONTROL_PREFIX} is the control plane", "leave it to Anubis")
    return found


def interface_address(text: str) -> IPv4Interface | IPv6Interface:
    """Parse an address of an interface with its prefix length."""
    text = squeeze(text)
    try:
        found = ipaddress.ip_interface(_prefix(text))
    except ValueError:
        raise BadValue("not an address", "like 10.9.0.2/24 or fd00:9::2/64") from None
    if found.ip.is_unspecified or found.ip.is_multicast or found.ip.is_loopback:
        raise BadValue("not an address of a host", "like 10.9.0.2/24 or fd00:9::2/64")
    if isinstance(found, IPv6Interface) and found.ip in CONTROL_PREFIX:
        raise BadValue(f"{CONTROL_PREFIX} is the control plane", "leave it to Anubis")
    return found


def _prefix(text: str) -> str:
    """Refuse what ipaddress takes and `wg` does not: dotted netmasks and zones."""
    if not _PREFIX.fullmatch(text):
        raise ValueError(text)
    return text
