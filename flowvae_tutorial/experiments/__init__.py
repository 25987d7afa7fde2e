"""The book's experiments: commands, runs, and the records that the pages rest on."""
