"""What a request needs, what is free, and how to stay within it."""
