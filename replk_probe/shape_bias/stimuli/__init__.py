"""Stimuli: their names, a set of them, and the published cue-conflict set."""
