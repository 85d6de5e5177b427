"""How much is run: `CYGNET_GUEST=all` takes what repeats a way through the code with other values too."""

from __future__ import annotations

import os

VARIABLE = "CYGNET_GUEST"
EVERYTHING = os.environ.get(VARIABLE) == "all"
