"""The kernel's IPsec over XFRM netlink: codec, policies, SAs, events. `engines.kernel` is what uses it."""
