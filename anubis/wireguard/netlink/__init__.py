"""A small generic-netlink codec for WireGuard in the kernel.

Why it exists although wgnlpy does the everyday changes: wgnlpy 0.1.5 crashes on reading an
interface whose peer was split over two messages, which happens from about 180 peers up; it sends
one peer a call, and fails beyond about 3,000 AllowedIPs. Decoding a peer takes it 120 to 150 us
where `struct` takes 2, which for a gateway with 100,000 peers is 12 s against 0.2 s.

    format      numbers, headers and attributes
    requests    changes and questions to bytes
    answers     bytes to devices
    transport   the one part with a socket
"""
