"""Results in words: tables for the terminal."""
