"""What a pool is made of on this machine: catalog, leases, backends with their labels, placement, backups."""
