"""How fast is the sidecar beside the proxies people would use instead? Run with `make bench`."""
