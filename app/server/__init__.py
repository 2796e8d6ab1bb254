"""What stands around a request, whatever it asks: middleware, tokens, the event loop, logs and metrics."""
