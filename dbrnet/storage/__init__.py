"""Where sources and datasets lie: local files, archives, HTTP and S3."""
