"""`python -m cygnet.dataplane`: started by the supervisor with inherited descriptors."""

import sys

from cygnet.dataplane.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
