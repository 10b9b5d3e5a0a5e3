"""What `llmdump ls`, `show`, `stats` and `sessions` become: the api's own questions, asked of an index, told in a terminal."""
