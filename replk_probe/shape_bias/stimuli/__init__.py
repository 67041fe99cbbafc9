"""Names of stimuli, stimulus sets, and the published cue-conflict set."""
