"""Jobs in, published results out: what has to run and why, in which order, until when, and the summary.

It does not know where jobs come from, nor in which process or on which device they run. Never loads torch.
"""
