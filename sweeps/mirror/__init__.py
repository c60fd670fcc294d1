"""Mirrors a sweep's folder on an object store: a copy that follows the folder within seconds and is always whole.

PREFIX/NAME/
├── manifest.json   the files of the folder, the object of each, and the driver that wrote the manifest; written last
└── objects/DRIVER/N/PATH   the contents, each object written once; DRIVER is the driver's id, N one of its uploads

A driver replaces only the manifest that it wrote before (put-if-match). A driver that finds another driver's manifest
was replaced, and ends.
"""
