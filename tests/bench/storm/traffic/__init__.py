"""What goes into a storm: requests and events, valid and hostile, and the ledger of what was sent and answered."""
