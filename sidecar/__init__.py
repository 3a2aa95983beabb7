"""openclaw-sidecar: one small process that guards an LLM backend."""

__version__ = "0.1.0"
