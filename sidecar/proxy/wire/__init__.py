"""HTTP/1.1 on the wire: heads and body framing, strict and byte-exact. No I/O."""
