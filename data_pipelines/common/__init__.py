"""The ground floor of both packages: errors, text for people, files written whole, threads, tables."""
