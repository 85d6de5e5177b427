"""IKEv1 (RFC 2407, 2408, 2409): what it is and IKEv2 is not. What they share stands in `cygnet.ike`."""
