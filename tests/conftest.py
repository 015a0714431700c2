"""What all tests share: being told to stop is a reason to tidy up."""

from __future__ import annotations

from tests.system.container import clean_up_on_sigterm

clean_up_on_sigterm()
