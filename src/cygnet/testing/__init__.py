"""The virtual network: gateways that negotiate for real, in virtual time, with faults, from a seed."""
