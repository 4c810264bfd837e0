"""`raystill init`: a look at a corpus, a guess at its task, and the files that it writes."""
