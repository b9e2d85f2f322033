"""Finding and replacing what identifies people, before anything is stored."""
