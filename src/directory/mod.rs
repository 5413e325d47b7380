//! Session files: the wanted set of sessions, read from watched directories.
