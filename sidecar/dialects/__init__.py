"""What does a response say of itself? No I/O, no clock: bytes go in, what they mean comes out."""
