"""Which numbers does this sidecar run with, and where does each come from?"""
