"""People, rows, pages and tasks: the Django shell around reward/ and rlhf_loop/."""
