"""Real hosts in the lab, and real tunnels between them."""
