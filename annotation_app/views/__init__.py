"""Pages. A view parses the request, asks the models, and answers."""
