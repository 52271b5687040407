"""The pages of the panel: one module for each kind of page, with a table of its pages and the access they require."""
