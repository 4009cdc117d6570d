"""What tests, benchmarks and demo share: the sds command line, and NBD servers as child processes."""
