"""What the user says: YAML documents, config.yaml, recipes and presets, manifests, jobs, names.

Values, checked and frozen. It does not know how any of it is done, and never loads torch.
"""
