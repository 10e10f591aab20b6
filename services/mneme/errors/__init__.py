"""The catalogue of error reasons, generated from its contract."""
