"""What Anubis owns of a host's network: links' addresses, routes, rules, nftables, sysctls.

`state` holds the values and `plan` decides them; `rtnetlink`, `nft` and `apply` bring them about.
"""
