"""Configuration: one vocabulary, three spellings, one validated model, and what `ike` obeys.

`load.load(path)` reads a file; `from_vici.connections(message)` reads what the control socket says.
"""
