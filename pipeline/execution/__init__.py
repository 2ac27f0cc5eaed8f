"""Where a job runs: in this process, in a worker that may die, on several side by side; inputs and results.

It loads torch when a job runs. It does not know about manifests, the inbox or the outbox.
"""
