"""The nouns that stages hand to each other; one small file per stage."""
