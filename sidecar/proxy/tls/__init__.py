"""Encrypts: contexts from files, their reload, and the layer between socket and protocol."""
