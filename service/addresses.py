"""Which addresses of the network a picture may be fetched from: public unicast, and ranges that the operator names."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The services that hand a machine its own credentials. Never reached, not even within a range that is allowed.
_METADATA = frozenset(
    map(
        ip_address,
        [
            "169.254.169.254", "169.254.169.253", "169.254.169.123", "169.254.169.250", "169.254.169.251",
            "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200", "192.0.0.192",
            "fd00:ec2::254", "fd00:ec2::253", "fd00:ec2::23", "fd20:ce::254",
        ],
    )
)  # fmt: skip

# IANA's special-purpose registry, whole blocks: Python's own `is_global` has changed from release to release, and
# makes exceptions that no host of pictures needs.
_SPECIAL_4 = [
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
# Of IPv6 only 2000::/3 is given out. Within it: protocol assignments (Teredo among them), documentation, 6to4, AS112.
# Outside it, so refused with the rest: IPv4-mapped and -compatible, NAT64, unique and link local, multicast.
_GLOBAL_6 = ip_network("2000::/3")
_SPECIAL_6 = [
    ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
]


def may_connect(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether a connection to `address` may be made; `allowed` are special ranges that are wanted (in-house hosts)."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    if address in _METADATA:
        return False
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    return address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6)
