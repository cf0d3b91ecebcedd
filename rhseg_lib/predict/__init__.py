"""New images and videos: reading (inputs), runtimes (runtime), files (write), a run (segment), tables and HTML page
(gallery), Labelme annotations to correct (pre_annotation), cameras (live)."""
