"""The command line: thin commands that parse, call a public function, save, and print a table."""
