"""Many trainings, one question: sweep files, trials, a runner that needs no server, and the report."""
