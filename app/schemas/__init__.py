"""Request and response models, a module per resource; their names are the contract's component names."""
