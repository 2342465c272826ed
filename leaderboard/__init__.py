"""Records, metrics, selection, statistics and tables of benchmark runs; never imports torch."""
