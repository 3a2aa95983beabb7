"""Carries the bytes: clients on one side, the backend on the other."""
