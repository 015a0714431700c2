"""What makes the manual pages and the completions: prose by hand in docs/, and what the code knows better."""
