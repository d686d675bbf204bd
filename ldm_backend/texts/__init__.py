"""From prompts to tokens: the vocabulary of a text model, the files that hold it, and BERT's tokeniser."""
