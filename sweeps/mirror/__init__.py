"""Mirrors a sweep's folder on an object store: a copy that follows the folder within seconds and is always whole.

PREFIX/NAME/
├── lease.json      the driver that may write here; another driver takes over only once the lease lapses
├── manifest.json   the files of the folder, and the object of each; written last
└── objects/TOKEN/N/PATH   the contents, each object written once; TOKEN is the driver's, N one of its uploads

A driver replaces the manifest only if it has read the present one (put-if-match). A driver that was cut off and comes
back finds another driver's manifest, and writes nothing more.
"""
