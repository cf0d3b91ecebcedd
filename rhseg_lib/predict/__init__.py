"""New images and videos: reading (inputs), masks (masks), runtimes (runtime), files (write), a run (segment), tables
and HTML page (gallery), Labelme annotations to correct (drafts), cameras (live)."""

import os

# Before torch is imported, if it is not yet: a thread of it that waits leaves its core to reading and writing.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
