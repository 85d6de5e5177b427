"""A network on one machine: namespaces, links, NAT, captures, and real programs in them.

`cygnet demo`, the network tests, the interop tests and the benchmarks stand on it. It starts the
real program and imports none of it.
"""
