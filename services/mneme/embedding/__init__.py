"""The embedding gateway: text to vector, in the deployment's one active space."""
