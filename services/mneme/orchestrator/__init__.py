"""The agent loop: agents, conversations, runs, and the models that drive them."""
