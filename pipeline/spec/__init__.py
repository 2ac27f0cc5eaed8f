"""What the user asks for: YAML documents, config.yaml, recipes and presets, manifests, jobs and names.

All of it is checked and frozen. The package does not know how jobs are run, and never loads torch.
"""
