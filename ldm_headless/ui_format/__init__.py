"""From a graph as the editor saves it to a prompt, as the editor exports it."""
