"""What survives a crash: durable operations on files, the outbox, the ledger.

It does not know what is stored. Never loads torch.
"""
