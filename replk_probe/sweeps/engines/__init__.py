"""Engines: where tasks run. An engine knows nothing of jobs, models and results."""
