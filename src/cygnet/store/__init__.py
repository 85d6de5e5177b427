"""What outlives a process: leases of virtual addresses."""
