"""slotd's TUF client beside the conformance suite of the TUF project; `make tuf-conformance SUITE=…` runs it."""
