"""Does what is shipped work where it is shipped to? Needs Debian as root (make test-system)."""
