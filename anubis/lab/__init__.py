"""A playground on one machine: hosts, networks and daemons in namespaces of their own."""
