"""`python -m cygnet.dataplane.engines`: say which engine an installation has."""

import sys

from cygnet.dataplane.engines import native_available

sys.stdout.write(
    "Engine: native, in Rust\n"
    if native_available()
    else "Engine: portable; the native one is skipped, as there is no Rust toolchain (cargo)\n"
)
