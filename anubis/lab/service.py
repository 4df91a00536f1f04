"""A daemon in a lab host as the systemd unit runs it, without systemd.

Owns what `systemd/` says of user, capability, directories and keys, as a command line: so every
test in the lab is one of a daemon with no more privilege than it has in service. Refuses to know
the sandbox around it, which takes systemd.
"""

from __future__ import annotations

from collections.abc import Sequence

from anubis.files.service import SERVICE

__all__ = ["as_service"]

# tmpfiles.d; RuntimeDirectory and StateDirectory, which systemd gives to the user with all that is
# in them; LoadCredential; then User, CapabilityBoundingSet, AmbientCapabilities, NoNewPrivileges.
_SCRIPT = f"""\
set -e
install -d -m 1775 -g {SERVICE} /run/wireguard
install -d -m 755 /run/anubis
install -d -m 700 /var/lib/anubis
chown -R {SERVICE}: /run/anubis /var/lib/anubis
credentials=/run/credentials/anubis.service
rm -rf $credentials
install -d /run/credentials
install -d -m 500 -o {SERVICE} $credentials
for key in production control; do
    file=/etc/anubis/$key.key
    [ ! -e $file ] || install -m 400 -o {SERVICE} $file $credentials/etc-anubis-$key.key
done
export CREDENTIALS_DIRECTORY=$credentials
caps=-all,+net_admin
umask 077
exec setpriv --reuid={SERVICE} --regid={SERVICE} --clear-groups --no-new-privs \\
    --bounding-set=$caps --inh-caps=$caps --ambient-caps=$caps "$@"
"""


def as_service(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` as the unit would, for root to execute."""
    return ["sh", "-c", _SCRIPT, SERVICE, *command]
