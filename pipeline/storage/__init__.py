"""What survives a crash: durable operations on files, the outbox, the ledger, requests to the daemon.

Only `live` holds what need not: what running processes show to others. This package does not know what is
stored. Never loads torch.
"""
