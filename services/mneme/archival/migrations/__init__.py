"""History of schema `archival`."""
