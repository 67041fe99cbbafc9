"""Reading, matching, renaming and writing of checkpoint files."""
