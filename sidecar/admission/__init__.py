"""Decides: may this request go now? No I/O, no clock, no asyncio (import-linter keeps it so)."""
