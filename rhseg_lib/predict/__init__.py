"""New images and videos: reading (inputs), masks and overlays (segment), tables and HTML page (gallery)."""
