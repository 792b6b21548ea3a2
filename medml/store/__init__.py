"""Tables: catalogue, ledger, leases, crosswalk. The only SQL."""
