"""VICI, the control socket that strongSwan's tools speak: `codec`, `server`, `client`, `shapes`."""
