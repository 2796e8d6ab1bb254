"""What a person types: serve, dev, check, token."""
