"""New images and videos: where they come from (inputs), masks and overlays (segment), table and page (gallery)."""
