"""Shows: metrics, health, status and a page, on a listener of its own."""
