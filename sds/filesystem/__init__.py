"""POSIX semantics on a dataset: inodes, directories, files, extended attributes. No FUSE in it."""
