"""What a service runs on: server, interceptors, errors, peers, telemetry, stores' connections."""
