"""slotd keeps the applications of a Linux host up to date and never leaves one broken."""

__version__ = "0.1.0"
