"""A sweep's folder on an object store: a copy that follows the folder within seconds and is whole at each moment.

PREFIX/NAME/
├── lease.json      which driver may write here; it renews the lease, and another takes over only when it lapses
├── manifest.json   what the folder holds, and in which object; written last
└── objects/TOKEN/N/PATH   the content, each object written once; TOKEN is the driver's, N one of its uploads

The manifest is replaced only by whoever has read the one before (put-if-match). A driver that was cut off and comes
back finds another's, and writes nothing more.
"""
