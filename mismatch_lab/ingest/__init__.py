"""Other frameworks' dumps as captures: a reader a format, one shape of rows, one writer."""
