"""Jobs on the nodes of a Ray cluster: an actor for each device, and the loop that gives them work.

It loads Ray when a run asks for it. The driver alone knows the outbox and the ledger.
"""
