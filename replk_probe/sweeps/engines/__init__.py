"""Engines: where tasks run. Engines do not depend on jobs, models and results."""
