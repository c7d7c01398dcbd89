"""The ground floor of both packages: errors, ranges, text for people, files written whole, threads, tables."""
