"""How a run's events reach those who watch it."""
