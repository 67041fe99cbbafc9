"""Where weights come from: the catalog, the embedded files, and their resolution."""
