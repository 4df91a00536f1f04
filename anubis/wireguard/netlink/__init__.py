"""A small generic-netlink codec for WireGuard in the kernel.

Why it exists although wgnlpy does the everyday changes: wgnlpy 0.1.5 crashes on reading an
interface whose peer was split over two messages, which happens from about 180 peers up; it sends
one peer a call, and fails beyond about 3,000 AllowedIPs. Decoding a peer takes it 6 to 10 times
as long as this codec (measured side by side: 180 us against 19 to 30).

    format      numbers, headers and attributes
    requests    changes and questions to bytes
    answers     bytes to devices
    transport   the one part with a socket
"""
