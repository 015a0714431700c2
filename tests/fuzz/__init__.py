"""Fuzzing, guided by coverage: each parser of foreign bytes is offered what nobody thought of. `make fuzz` runs it.

One file per target: what is offered, what counts as a good answer, and from which seeds it starts. A target is given
bytes, and may end well or in one of its parser's own errors; another exception, more than two seconds of processor
time or 200 MB of memory are a crash. What crashed once stays in `found/` and is offered again by the unit tests.
"""
