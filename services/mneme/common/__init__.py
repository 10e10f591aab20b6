"""Messages and options that all contracts share, generated from their contracts."""
