"""The only SQL of the orchestrator: one module a family of tables."""
