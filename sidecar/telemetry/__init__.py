"""Tells: metrics, logs and (later) traces, from frozen facts."""
