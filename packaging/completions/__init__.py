"""Completion of slotctl for bash, zsh and fish, written from its grammar.

Not shtab: what Debian has of it knows no fish, and its dynamic values are shell functions by hand that cannot see
which app was typed. Here all that is dynamic is one question to `slotctl _complete`, with the whole command line.
"""
